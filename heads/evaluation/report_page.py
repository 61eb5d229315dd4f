"""The frame of the report: one HTML page that needs nothing but itself, and the small pieces that it is built of.

Text reaches a page through `escaped` only. The page forbids itself, by its content security policy, to load or run
anything, so that not even a slip in the escaping could.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from .report_style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escaped(value: object) -> str:
    """Return a value as text that is safe between tags and inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def page(title: str, body: str) -> str:
    """Return the whole document.

    Parameters
    ----------
    title
        Plain text.
    body
        HTML.
    """
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str, *, anchor: str) -> str:
    """Return a section with its heading; nothing where the body is empty.

    Parameters
    ----------
    title
        Plain text.
    body
        HTML.
    anchor
        The id that links point to.
    """
    if not body:
        return ""
    return f'<section id="{escaped(anchor)}">\n<h2>{escaped(title)}</h2>\n{body}\n</section>\n'


def paragraph(text: str, *, style: str = "") -> str:
    """Return a paragraph of plain text."""
    attribute = f' class="{escaped(style)}"' if style else ""
    return f"<p{attribute}>{escaped(text)}</p>\n"


def bullets(lines: Iterable[str]) -> str:
    """Return a list of plain sentences; nothing where there are none."""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>\n" if items else ""


def box(title: str, lines: Iterable[str], *, style: str) -> str:
    """Return a framed list of plain sentences under a bold word; nothing where there are none."""
    listed = bullets(lines)
    return f'<aside class="box {escaped(style)}"><strong>{escaped(title)}</strong>{listed}</aside>\n' if listed else ""


def folded(title: str, body: str) -> str:
    """Return a part that the reader opens."""
    return f"<details><summary>{escaped(title)}</summary>\n{body}</details>\n"


def facts(values: Mapping[str, object]) -> str:
    """Return nested mappings and lists as a list of terms, every name and value as text."""
    entries = "".join(
        f"<dt>{escaped(str(name).replace('_', ' '))}</dt><dd>{_fact(value)}</dd>" for name, value in values.items()
    )
    return f"<dl>{entries}</dl>\n" if entries else ""


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return facts(value) or "none"
    if isinstance(value, list | tuple):
        return bullets(str(item) for item in value) or "none"
    return "–" if value is None or value == "" else escaped(value)
