"""What a user may have meant by a name that does not exist, and what to give instead.

Messages name arguments as Python spells them, such as `patches="grid-112um"`; the commands turn these into options
(`tissuary.cli.output`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self

from .catalog_file import Entry
from .errors import StoreError


class StoreContents(Protocol):
    """What `Store` says of its files; a protocol, so that messages need not import what makes them."""

    path: Path

    @property
    def entries(self) -> tuple[Entry, ...]:
        """See `Store.entries`."""
        ...

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Slides of the store."""
        ...

    @property
    def patch_sets(self) -> tuple[str, ...]:
        """Patch sets of the store."""
        ...

    def keys(self, patches: str | None = None) -> tuple[str, ...]:
        """Feature keys of a patch set."""
        ...

    def slides_with(self, keys: str | Sequence[str], *, patches: str | None = None) -> tuple[str, ...]:
        """Slides that have all of these keys."""
        ...

    def reread(self) -> Self:
        """The same store, as its files are now."""
        ...


LISTED = 30
"""Names that a message lists."""

BEGINNING = 3
"""Letters from which on a name is taken for the beginning of another."""


def listed(names: Iterable[str]) -> str:
    """Names with commas, the first thirty of them, or "none"."""
    every = list(names)
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return (", ".join(every[:LISTED]) or "none") + more


def plural(n: int, one: str, several: str | None = None) -> str:
    """A number and what it counts: `1 slide`, `2 slides`."""
    return f"{n:,} {one if n == 1 else several or f'{one}s'}"


def nearest(name: object, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three names that read like one, begin with it or hold it, whatever their case, the nearest first."""
    wanted, by_lower = str(name).lower(), {one.lower(): one for one in names}
    begin = [one for one in by_lower if len(wanted) >= BEGINNING and one.startswith(wanted)]
    close = difflib.get_close_matches(wanted, by_lower, n=3, cutoff=0.7)
    hold = [one for one in by_lower if wanted and wanted in one]
    return tuple(by_lower[one] for one in list(dict.fromkeys([*close, *begin]) or hold)[:3])


def instead(name: object, names: Sequence[str]) -> str:
    """`did you mean x? There are x, y, z`, or what there is alone."""
    near = nearest(name, names)
    have = f"here are {listed(names)}"
    return f"did you mean {' or '.join(near)}? T{have}" if near else f"t{have}"


def as_names(value: str | Iterable[str], what: str) -> tuple[str, ...]:
    """One name, or several, as a tuple; a string is one name, and not its letters.

    Raises
    ------
    StoreError
        If they are no strings.
    """
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    wrong = [one for one in names if not isinstance(one, str)]
    if wrong:
        msg = f"{what}: {wrong[0]!r} is no name; wanted a string, or several in a tuple"
        raise StoreError(msg)
    return names


def no_patch_set(store: StoreContents, patches: str) -> StoreError:
    """A patch set that the store lacks."""
    have = store.patch_sets
    grid = " --patches grid" if patches.startswith("grid") else ""
    make = f", or make it with `tissuary featurize SOURCE --store {store.path}{grid}`"
    choose = f'; choose one with `patches="{have[0]}"`{make}' if have else f": {make[5:]}"
    return StoreError(f"{store.path} has no patch set {patches!r}: {instead(patches, have)}{choose}")


def no_key(store: StoreContents, key: str, *, patches: str) -> StoreError:
    """A feature key that no slide has on a patch set."""
    store = store.reread()
    others = [one for one in store.patch_sets if one != patches and key in store.keys(one)]
    if others:
        return StoreError(f'{store.path} has {key} on {listed(others)}, not on {patches!r}: `patches="{others[0]}"`')
    return StoreError(f"{store.path} has no features {key!r} on {patches!r}: {instead(key, store.keys(patches))}")


def no_slide(store: StoreContents, slide_id: str) -> StoreError:
    """A slide that the store lacks."""
    return StoreError(f"{store.path} has no slide {slide_id!r}: {instead(slide_id, store.slide_ids)}")


def what_is_missing(store: StoreContents, slide_id: str, *, patches: str, key: str | None = None) -> StoreError:
    """Why a slide has no file of patches, or of features under a key, with what there is."""
    store = store.reread()
    if slide_id not in store.slide_ids:
        return no_slide(store, slide_id)
    if patches not in store.patch_sets:
        return no_patch_set(store, patches)
    if key is None:
        have = sorted({one.patches for one in store.entries if (one.kind, one.slide_id) == ("patches", slide_id)})
        return StoreError(f"slide {slide_id} has no patches in {patches!r}; it has {listed(have)}")
    if key not in store.keys(patches):
        return no_key(store, key, patches=patches)
    others = store.slides_with([key], patches=patches)
    return StoreError(
        f"slide {slide_id} has no features {key} on {patches!r}; slides that have them are {listed(others)}. Run "
        f"`tissuary featurize` again with the options of these slides"
    )
