"""Which stored tokens are the levels of a head that mixes them, read from feature keys and shapes of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from ...store.errors import HeadError
from ...store.files.column import FeatureColumn
from ...store.naming import FeatureKey
from ...store.table import Table

Rows = Mapping[str, tuple[int, ...]]
"""Shape of one row, (dim,) or (tokens, dim), by feature key."""

LAYOUTS = ("auto", "tiles", "grid")
LEVELS = ("all", "0", "1", "2")

GRIDS, TILES = "--tokens 7x7", "--layout aligned"
"""Options of `tissuary featurize` that store token grids, and sub-tiles of one region."""


@dataclass(frozen=True)
class TokenLevel:
    """Tokens of one resolution, a square of cells around the centre of a spot.

    Attributes
    ----------
    key
        Feature key.
    field_um
        Side of the square that the cells fill together.
    mpp
        um per pixel of the view.
    side
        Cells per side; 1 where the key holds one vector a spot.
    dim
        Length of a token.
    """

    key: str
    field_um: float
    mpp: float
    side: int
    dim: int


def aligned_levels(rows: Rows, *, layout: str, grid: int) -> tuple[TokenLevel, ...]:
    """Levels that show one region at several resolutions, finest first; none where the keys have none.

    Parameters
    ----------
    layout
        "tiles": sub-tiles and the plain view that fill the same square; "grid": token grids, of which a head takes
        the part that all of them show; "auto": tiles where there are two such levels, else grids.
    grid
        Cells per side that a grid should have at least; where a view has several, the coarsest such is taken.

    Raises
    ------
    HeadError
        If there is no such layout.
    """
    if layout not in LAYOUTS:
        msg = f"layout={layout!r}: choose {', '.join(LAYOUTS)}"
        raise HeadError(msg)
    if layout == "grid":
        return grid_levels(rows, grid=grid)
    found = tile_levels(rows)
    return found if layout == "tiles" or len(found) > 1 else grid_levels(rows, grid=grid)


def tile_levels(rows: Rows) -> tuple[TokenLevel, ...]:
    """Sub-tiles of one region, and its plain view: the region of most levels, finest first."""
    tiles = [level_of(key, row) for key, row in rows.items() if _layout(key).startswith("tiles")]
    plain = [level_of(key, row) for key, row in rows.items() if not _layout(key) and len(row) == 1]
    regions = [
        [level for level in (*tiles, *plain) if level is not None and level.field_um == region]
        for region in sorted({level.field_um for level in tiles if level is not None})
    ]
    return _finest_first(max(regions, key=len, default=[]))


def grid_levels(rows: Rows, *, grid: int) -> tuple[TokenLevel, ...]:
    """One token grid of each view, finest first: the coarsest of at least `grid` cells a side, else the finest."""
    by_view: dict[tuple[float, float], list[TokenLevel]] = {}
    for key, row in rows.items():
        level = level_of(key, row) if _layout(key).startswith("grid") else None
        if level is not None:
            by_view.setdefault((level.field_um, level.mpp), []).append(level)
    enough = [[one for one in levels if one.side >= grid] for levels in by_view.values()]
    chosen = [
        min(some, key=lambda one: one.side) if some else max(levels, key=lambda one: one.side)
        for some, levels in zip(enough, by_view.values(), strict=True)
    ]
    return _finest_first(chosen)


def level_of(key: str, row: tuple[int, ...]) -> TokenLevel | None:
    """The level that a key holds; None of `native` views, whose field differs by slide, and of oblong grids."""
    parsed, cells = FeatureKey.parse(key), 1 if len(row) == 1 else row[0]
    side = isqrt(cells)
    if parsed.size is None or side * side != cells:
        return None
    field_um, mpp = parsed.size
    tiles = side if _layout(key).startswith("tiles") else 1
    return TokenLevel(key, field_um * tiles, mpp, side, row[-1])


def chosen_levels(levels: tuple[TokenLevel, ...], which: str | int, *, head: str, make: str) -> tuple[TokenLevel, ...]:
    """All levels, or one of them.

    Parameters
    ----------
    which
        "all", or the number of a level, 0 the finest.
    head
        Name for the message.
    make
        Sentence on how to get what is missing, as `how_to_get` writes it.

    Raises
    ------
    HeadError
        If there is no such level, or all are wanted and there are not two.
    """
    if str(which) not in LEVELS:
        msg = f"levels={which!r}: choose {', '.join(LEVELS)}"
        raise HeadError(msg)
    have = ", ".join(level.key for level in levels) or "none"
    if which == "all" and len(levels) < 2:
        alone = "; `levels=0` takes the one level alone" if levels else ""
        msg = f"{head} mixes tokens of two levels or more, and these features have {have}. {make}{alone}"
        raise HeadError(msg)
    if which != "all" and int(which) >= len(levels):
        msg = f"{head} with levels={which}: these features have {have}. {make}"
        raise HeadError(msg)
    return levels if which == "all" else (levels[int(which)],)


def rows_of(table: Table) -> dict[str, tuple[int, ...]]:
    """Row shapes of the views and of the tokens of a table; of token grids only those of its views.

    A column that was computed from several views is none of them, and stands for all of them.
    """
    apart = set(grids_apart(table))
    tokens = {key: column.row_shape for key, column in table.token_columns.items() if key not in apart}
    return {key: column.row_shape for key, column in table.columns.items() if not column.made_of} | tokens


def grids_apart(table: Table) -> tuple[str, ...]:
    """Token grids that a table carries of views that are not among its features."""
    views = {view_of(key) for column in table.columns.values() for key in column.sources}
    return tuple(key for key in table.token_columns if _layout(key).startswith("grid") and view_of(key) not in views)


def how_to_get(table: Table | None, *options: str) -> str:
    """What a user does to have more tokens: compare views whose tokens are stored already, else make them.

    Parameters
    ----------
    table
        What a head was given; None where there is none yet.
    options
        Of `tissuary featurize`, any of which makes what is missing.
    """
    apart = () if table is None else grids_apart(table)
    sources = [] if table is None else [key for column in table.columns.values() for key in column.sources]
    if apart:
        views = " ".join(dict.fromkeys(view_of(key) for key in (*sources, *apart)))
        return f"The store has {', '.join(apart)}, of views that are left out here: take them too, `--views {views}`"
    useless = [
        key
        for key, column in ({} if table is None else table.token_columns).items()
        if _layout(key).startswith("grid") and level_of(key, column.row_shape) is None
    ]
    why = ""
    if useless:
        why = f"{', '.join(useless)} cannot be one: the field of `native` differs by slide, and a grid must be square. "
    encoder = "".join(f" --backbone {one}" for one in dict.fromkeys(FeatureKey.parse(key).encoder for key in sources))
    commands = ", or ".join(f"`tissuary featurize SOURCE --store STORE{encoder} {option}`" for option in options)
    return f"{why}Make {'others' if useless else 'them'}: {commands}"


def columns_of(table: Table, keys: tuple[str, ...]) -> tuple[FeatureColumn, ...]:
    """Columns of a table, tokens or not."""
    return tuple((table.columns | table.token_columns)[key] for key in keys)


def view_of(key: str) -> str:
    """View of a feature key."""
    return FeatureKey.parse(key).view


def _layout(key: str) -> str:
    return FeatureKey.parse(key).layout or ""


def _finest_first(levels: list[TokenLevel]) -> tuple[TokenLevel, ...]:
    return tuple(sorted(levels, key=lambda one: (one.mpp, one.field_um)))


def cells_onto(side: int, field_um: float, *, to: int, to_field_um: float) -> Tensor:
    """Weights (to * to, side * side) of stored cells in wanted ones.

    Stored cells are a map that is constant over each cell; a wanted cell is the mean of that map over itself. So
    2 x 2 -> 4 x 4 repeats, 14 x 14 -> 7 x 7 averages 2 x 2, and a smaller field crops, with shares where borders do
    not meet. Every row sums to one.

    Parameters
    ----------
    side, field_um
        Of the stored cells: cells a side, and side of the square that they fill.
    to, to_field_um
        Of the wanted ones; not beyond the stored square.
    """
    edges = torch.linspace(0.0, 1.0, side + 1, dtype=torch.float64)
    share = to_field_um / field_um
    wanted = 0.5 - share / 2 + share * torch.linspace(0.0, 1.0, to + 1, dtype=torch.float64)
    low = torch.maximum(wanted[:-1, None], edges[None, :-1])
    high = torch.minimum(wanted[1:, None], edges[None, 1:])
    axis = (high - low).clamp(min=0.0)  # (to, side) lengths shared
    axis = torch.where(axis < 1e-9, 0.0, axis)  # what rounding leaves of borders that meet
    axis = axis / axis.sum(1, keepdim=True)
    return torch.kron(axis, axis).float()


def moved(weights: Tensor, tokens: Tensor) -> Tensor:
    """Tokens (b, s, d) on the wanted cells (b, t, d)."""
    return torch.einsum("ts,bsd->btd", weights, tokens)
