"""What marks a folder as a store, and what to say of a path that is none. Nothing here writes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .errors import InvalidNameError, StoreError
from .files.schema import tool_output
from .naming import FeatureKey

_LOOKED_AT = 300
"""Folders looked at below, or beside, a path that is no store, so that a home folder costs no time."""

_DEPTH = 3

_RUN, _REPORT = "head.json", "results.json"


def is_store(path: Path) -> bool:
    """Whether a folder holds slide files, or features under a key, where a store has them.

    The catalogue is no mark: it is made from the files. A folder that may not be read counts as a store, as opening it
    then says what is wrong.
    """
    try:
        return path.is_dir() and (_holds_slides(path / "slides") or _holds_keys(path / "features"))
    except PermissionError:
        return True


def check_store(path: Path) -> None:
    """Refuse a path that is no store.

    Raises
    ------
    StoreError
        Saying what is there, and which store may have been meant.
    """
    if not is_store(path):
        msg = f"{path} is no store: {_what_is_there(path)}"
        raise StoreError(msg)


def _holds_slides(folder: Path) -> bool:
    return any(name.endswith(".h5") and name[0] != "." for name in _names(folder))


def _holds_keys(folder: Path) -> bool:
    return any(_is_key(key) for patches in _names(folder) for key in _names(folder / patches))


def _is_key(name: str) -> bool:
    try:
        FeatureKey.parse(name)
    except InvalidNameError:
        return False
    return True


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names, not paths: there may be 50,000)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _what_is_there(path: Path) -> str:
    """What a path is, and what to give instead."""
    make = f"Make one with `tissuary featurize SOURCE --store {path}`."
    make_other = "`tissuary featurize SOURCE --store STORE` makes one."
    around = next((parent for parent in path.absolute().parents[:4] if is_store(parent)), None)
    if around is not None and path.exists():
        return f"it is a part of the store {_short(around)}. Give that folder."
    if not path.exists():
        beside = [one for one in _folders(path.parent) if is_store(one)]
        near = difflib.get_close_matches(path.name, [one.name for one in beside], n=3, cutoff=0.5)
        likely = [one for one in beside if one.name in near] or beside
        return f"there is no such folder. {f'Did you mean {_listed(likely)}?' if likely else make}"
    output = tool_output(path)
    if not path.is_dir():
        if output is not None:
            return f"it {output.said}"
        return "it is a file, and a store is the folder that `tissuary featurize SOURCE --store FOLDER` makes."
    below = list(_stores_below(path))
    if below:
        one = "the store" if len(below) == 1 else "several stores,"
        return f"it holds {one} {_listed(below)}. Give {'that folder' if len(below) == 1 else 'one of them'}."
    found = sorted(name for name in _names(path) if name[0] != ".")
    if not found:
        return f"the folder is empty. {make}"
    if _RUN in found:
        return "it is a run of `tissuary train`, which `tissuary predict RUN STORE --out DIR` takes before the store."
    if _REPORT in found:
        return "it is a report of `tissuary compare`. Give the store that was compared."
    if output is not None:
        return f"it {output.said}"
    return f"it has no slides/*.h5, as every store does; it holds {', '.join(found[:3])}. {make_other}"


def _listed(stores: list[Path]) -> str:
    more = f" and {len(stores) - 3} more" if len(stores) > 3 else ""
    return ", ".join(str(one) for one in stores[:3]) + more


def _stores_below(path: Path) -> Iterator[Path]:
    """Stores in a folder, those of the upper folders first."""
    level = [path]
    for _ in range(_DEPTH):
        level = list(islice((folder for parent in level for folder in _folders(parent)), _LOOKED_AT))
        found = [folder for folder in level if is_store(folder)]
        yield from found
        level = [folder for folder in level if folder not in found]


def _folders(parent: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones and those that may not be read."""
    try:
        names = sorted(name for name in _names(parent) if name[0] != ".")[:_LOOKED_AT]
        return [parent / name for name in names if (parent / name).is_dir() and os.access(parent / name, os.R_OK)]
    except PermissionError:
        return []


def _short(path: Path) -> Path:
    """A path as short as it reads from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path
