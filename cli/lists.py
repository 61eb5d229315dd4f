"""Options that take several values after one name: `--views 20x 10x 5x` is `--views 20x --views 10x --views 5x`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..store.errors import InvalidNameError
from ..store.naming import feature_key

_PATHLIKE = re.compile(r"[/\\]")


def expand_lists(arguments: Sequence[str]) -> list[str]:
    """Repeat the option's name before each further value.

    A value belongs to the list only if it reads as one of its kind, so that a positional argument after the list is
    not swallowed.
    """
    belongs = next((_BELONGS_TO[verb] for verb in arguments if verb in _BELONGS_TO), _BELONGS)
    out: list[str] = []
    current: str | None = None
    values = 0
    for argument in arguments:
        if argument.startswith("-"):
            current, values = (argument, 0) if argument in belongs else (None, 0)
            out.append(argument)
            continue
        if current is not None:
            parts = _parts(argument, current, belongs[current])
            if values == 0:
                out.append(parts[0])
                out += [word for part in parts[1:] for word in (current, part)]
                values = 1
                continue
            if all(map(belongs[current], parts)):
                out += [word for part in parts for word in (current, part)]
                continue
            current = None
        out.append(argument)
    return out


def _parts(argument: str, option: str, belongs: Callable[[str], bool]) -> list[str]:
    """`20x,10x` as two values, where each part reads as one: options of a head have commas too."""
    parts = [part for part in argument.split(",") if part]
    return parts if option != "--weights" and len(parts) > 1 and all(map(belongs, parts)) else [argument]


def _is_view(text: str) -> bool:
    try:
        feature_key("x", text)
    except InvalidNameError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_backbone(text: str) -> bool:
    return text.endswith(".json") or (not _PATHLIKE.search(text) and _known_backbone(text))


def _known_backbone(text: str) -> bool:
    from ..featurize.backbones.registry import BACKBONES

    return text in BACKBONES


def _is_head(text: str) -> bool:
    from ..heads.registry import HEADS

    return text == "all" or text.split(":")[0] in HEADS


def _is_protocol(text: str) -> bool:
    from ..heads.protocols.named import PROTOCOLS

    return text in PROTOCOLS


def _is_word(text: str) -> bool:
    """No path, as far as one can see: what a store calls things is not known before it is opened."""
    return not _PATHLIKE.search(text) and not Path(text).exists()


_BELONGS: dict[str, Callable[[str], bool]] = {
    "--views": _is_view,
    "--view-sets": lambda text: all(map(_is_view, text.split("+"))),
    "--grid-um": _is_number,
    "--tokens": lambda text: bool(re.fullmatch(r"\d+x\d+", text)),
    "--weights": lambda text: "=" in text,
    "--backbone": _is_backbone,
    "--heads": _is_head,
    "--protocol": _is_protocol,
    "--genes": _is_word,
    "--slides": _is_word,
}
_BELONGS_TO: dict[str, dict[str, Callable[[str], bool]]] = {"compare": {**_BELONGS, "--backbone": _is_word}}
