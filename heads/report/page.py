"""The frame of the report: one HTML page that needs nothing but itself, and the small pieces that it is built of.

Text reaches a page through `escaped` only. The page forbids itself, by its content security policy, to load or run
anything, so that not even a slip in the escaping could.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d2530; --soft: #566273; --line: #dde2ea; --paper: #ffffff; --ground: #f5f7fa; --tick: #9aa4b2;
  --head: #0072b2; --control: #b34700; --diagnostic: #6b7280; --ceiling: #00734f; --other: #8a4d80;
  --floor: #fdeedd; --floor-edge: #d98a45; --grey: #eef0f3; --alert: #fff8e1; --alert-edge: #e6c65c; --on: #ffffff;
}
/* Paper is white whatever the screen was. */
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6eaf0; --soft: #a3aebd; --line: #364152; --paper: #1a212c; --ground: #11161e; --tick: #6b7788;
    --head: #5ab4e5; --control: #f0995c; --diagnostic: #a3aebd; --ceiling: #4cc79c; --other: #d99bcd;
    --floor: #3a2a1c; --floor-edge: #c07a3c; --grey: #262e3a; --alert: #332c14; --alert-edge: #8a7430; --on: #11161e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
main { max-width: 1200px; margin: 0 auto; padding: 16px 20px 64px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.3rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 28px 0 4px; overflow-wrap: anywhere; }
h4 { font-size: 0.95rem; margin: 16px 0 4px; }
p { margin: 0 0 10px; overflow-wrap: anywhere; }
small { display: block; font-size: 0.75rem; font-weight: 400; color: var(--soft); }
a { color: inherit; }
ul { margin: 4px 0 0; padding-left: 20px; }
li { overflow-wrap: anywhere; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 16px 22px;
  margin-top: 16px; }
.brand { color: var(--soft); font-size: 0.9rem; margin: 0; }
.brand strong { color: var(--head); letter-spacing: 0.04em; }
.subtitle, .sizes, .legend, .where, .note { color: var(--soft); font-size: 0.9rem; }

.subtitle { margin: 2px 0 4px; }
.synthetic { border-left: 5px solid var(--control); background: var(--alert); padding: 5px 12px; border-radius: 6px; }
.boards { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 24px; font-size: 0.9rem; }
.verdict { border-left: 5px solid var(--soft); padding: 2px 0 2px 14px; margin: 6px 0 10px; }
.verdict ul { color: var(--soft); font-size: 0.88rem; line-height: 1.4; margin: 0; padding-left: 18px; }
.verdict .sentence { font-size: 1.12rem; line-height: 1.4; color: var(--ink); margin: 0 0 4px; }
.outcome { display: inline-block; border-radius: 999px; padding: 0 10px; margin-right: 4px; color: var(--on);
  background: var(--soft); font-weight: 600; font-size: 0.8rem; }
.verdict.beats { border-left-color: var(--head); } .outcome.beats { background: var(--head); }
.verdict.fails { border-left-color: var(--control); } .outcome.fails { background: var(--control); }

.box { border-radius: 8px; padding: 12px 16px; margin: 16px 0; border: 1px solid var(--line);
  background: var(--ground); }
.box.warning, .box.leak { background: var(--alert); border-color: var(--alert-edge); }

.scroll { overflow-x: auto; margin: 10px 0; }
.hint { display: none; margin: 4px 0 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 7px 9px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; font-size: 0.8rem; vertical-align: bottom;
  border-bottom: 2px solid var(--line); }
th.name { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--paper);
  white-space: normal; min-width: 120px; max-width: 260px; overflow-wrap: anywhere; }
td.prose, th.prose { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 220px; }
td.headline { font-weight: 700; }
tbody.head th.name { color: var(--head); }
tbody.head tr.best td.headline { font-size: 1.05rem; }
.below { color: var(--control); font-weight: 600; }
table.leaderboard { font-size: 0.86rem; }
table.leaderboard th, table.leaderboard td { padding: 2px 8px; vertical-align: middle; }
table.leaderboard thead th { white-space: normal; min-width: 56px; }
table.leaderboard th.name { white-space: nowrap; max-width: none; }
table.leaderboard th.name.long { white-space: normal; min-width: 150px; }
table.leaderboard th small { line-height: 1.25; }
table.leaderboard th small.aside { display: inline; margin-left: 6px; }
table.leaderboard td small { display: inline; font-size: 0.8rem; }
th.strip { text-align: center; }
table.leaderboard td.strip { width: 38%; min-width: 150px; padding: 0 4px; height: 25px; position: relative; }
td.strip .plot-track { position: absolute; inset: 0 4px; min-height: 0; }
td.strip.head { color: var(--head); } td.strip.control { color: var(--control); }
td.strip.diagnostic { color: var(--diagnostic); }
tfoot th, tfoot td { border-bottom: 0; }
tbody.control th, tbody.control td, tr.control th, tr.control td { background: var(--floor); }
tbody.control th.name, tr.control th.name { color: var(--control); }
tbody.diagnostic th, tbody.diagnostic td, tr.diagnostic th, tr.diagnostic td { background: var(--grey); }
table.leaderboard tbody.control td { background: none; }
table.leaderboard tbody.control th { background: var(--paper); }
tbody.control td.headline, tbody.diagnostic td.headline { font-weight: 600; }
table.scores th.name { min-width: 230px; } table.scores thead th { white-space: normal; overflow-wrap: anywhere; }
table.scores thead th { min-width: 62px; }
tr.group th { text-align: left; font-size: 0.8rem; color: var(--soft); padding: 4px 9px; }

.plot { margin-top: 8px; }
.plot-row { display: grid; grid-template-columns: minmax(90px, 200px) minmax(0, 1fr) 56px; align-items: center;
  column-gap: 10px; }
.plot-label { font-size: 0.88rem; text-align: right; overflow-wrap: anywhere; line-height: 1.15; }
.plot-value { font-size: 0.88rem; font-variant-numeric: tabular-nums; font-weight: 600; }
.plot-track { position: relative; align-self: stretch; min-height: 30px; }
.axis .plot-track { min-height: 24px; }
.track { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot-row.head { color: var(--head); }
.plot-row.control { color: var(--control); }
.plot-row.diagnostic { color: var(--diagnostic); }
.floor { fill: var(--floor); } .floor-edge { stroke: var(--floor-edge); stroke-width: 1.5; stroke-dasharray: 4 3; }
.zero { stroke: var(--tick); stroke-width: 1; }
line.ceiling { stroke: var(--ceiling); stroke-width: 2; }
line.other-genes { stroke: var(--other); stroke-width: 2; stroke-dasharray: 2 3; }
.whisker { stroke: currentColor; stroke-width: 1.5; opacity: 0.7; }
.box-of-half { fill: currentColor; opacity: 0.3; } .median { stroke: currentColor; stroke-width: 2.5; }
.interval, .cap { stroke: var(--ink); stroke-width: 1.6; }
.dot { fill: currentColor; opacity: 0.3; }
.mean { fill: currentColor; stroke: var(--paper); stroke-width: 1; }
.tick { stroke: var(--tick); } .tick-label { fill: var(--soft); font-size: 12px; text-anchor: middle; }
.legend { margin: 8px 0 6px; } .key { display: inline-block; margin-right: 14px; }
.key.head { color: var(--head); }
.key.control { color: var(--control); }
.key.diagnostic { color: var(--diagnostic); }
.floor-swatch { display: inline-block; width: 22px; height: 12px; vertical-align: -1px; background: var(--floor);
  border-right: 2px dashed var(--floor-edge); }
.line-swatch { display: inline-block; width: 24px; vertical-align: 4px; border-top: 2.5px solid var(--ink); }

.picture { display: block; width: 100%; max-width: 640px; height: auto; margin: 6px 0; }
.picture .tick-label.across { text-anchor: end; }
.frame { fill: none; stroke: var(--tick); } .grid { stroke: var(--line); }
.curve, .bins, .equal { fill: none; stroke: var(--ink); stroke-width: 2.2; stroke-linejoin: round; }
.equal { stroke: var(--tick); stroke-dasharray: 5 4; stroke-width: 1.4; }
.bins { stroke: var(--head); stroke-width: 1.6; } .bin { fill: var(--head); stroke: var(--paper); }
/* Heads in blue, told apart by their dashes; the control in orange. */
[class*="curve-head"] { stroke: var(--head); border-color: var(--head); }
.curve-head-1 { stroke-dasharray: 9 4; border-top-style: dashed; }
.curve-head-2 { stroke-dasharray: 2 4; border-top-style: dotted; }
[class*="curve-control"] { stroke: var(--control); border-color: var(--control); }
.curve.ceiling { stroke: var(--ceiling); } .line-swatch.ceiling { border-color: var(--ceiling); }
.curve.other-genes { stroke: var(--other); stroke-dasharray: 2 3; }
.line-swatch.other-genes { border-color: var(--other); border-top-style: dotted; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 380px)); gap: 16px; }

.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 16px; align-items: start; }
figure { margin: 0; display: flex; flex-direction: column-reverse; }
figure img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
figcaption { font-weight: 600; font-size: 0.9rem; margin-bottom: 4px; }

details { margin-top: 12px; border-top: 1px solid var(--line); padding-top: 10px; }
summary { cursor: pointer; font-weight: 600; font-size: 0.95rem; }
dl { display: grid; grid-template-columns: minmax(80px, max-content) minmax(0, 1fr); gap: 4px 16px; margin: 6px 0;
  font-size: 0.9rem; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
dd dl { margin: 0; } dd ul { margin: 0; }

@media (max-width: 900px) {
  table.leaderboard { font-size: 0.82rem; }
  table.leaderboard th, table.leaderboard td { padding: 2px 5px; }
  table.leaderboard td small { display: block; }
  table.leaderboard td.strip { width: 24%; min-width: 110px; }
  table.leaderboard th small.aside, td.strip .tick-label.between { display: none; }
  /* The table of costs has it too. */
  table.leaderboard .cost { display: none; }
}
@media (max-width: 640px) {
  main { padding: 16px 12px 40px; }
  h1 { font-size: 1.5rem; }
  section { padding: 16px 14px; }
  .verdict .sentence { font-size: 1.08rem; }
  .plot-row { grid-template-columns: 84px minmax(0, 1fr) 48px; column-gap: 6px; }
  .plot-label { font-size: 0.8rem; }
  table { font-size: 0.85rem; }
  th.name { min-width: 112px; max-width: 130px; border-right: 1px solid var(--line); }
  .tick-label.between { display: none; }
  .hint { display: block; }
  dl, dd dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
@media print {
  @page { margin: 12mm; }
  body { background: #fff; font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; break-inside: auto; }
  h2, h3, .sizes { break-after: avoid; }
  small { font-size: 7pt; }
  /* Paper cannot unfold: all is printed. */
  details::details-content { content-visibility: visible; block-size: auto; }
  .plot, .verdict, .box, figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } .hint { display: none; }
  table { font-size: 8pt; } th, td { padding: 4px 5px; }
  .maps { grid-template-columns: repeat(4, 1fr); break-inside: avoid; }
}
"""


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
