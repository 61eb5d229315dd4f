"""M2OST: token sets of growing fields around a spot, mixed within levels, between levels, and over channels."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..store.errors import HeadError
from ..store.table import Table
from .engine.module import HeadModule, Shape
from .m2ost_layers import NestedMixer
from .tokens import GRIDS, LEVELS, Level, Rows, chosen_levels, grid_levels, how_to_get
from .tokens_head import DefaultMode, TokenHead
from .tokens_onto import cells_onto

MODES = ("default", "paper", "code")

SIDE = 14
"""Cells a side of the grids that fine tokens are taken from."""

COARSE = 7
"""Cells a side of the coarse tokens of every level, as published."""


class M2OST(TokenHead):
    """Tokens of growing fields around one spot, mixed within levels, between levels and over channels.

    After arXiv 2409.15092 (M2OST, AAAI 2025), on stored tokens: adapters take the place of its pixel embeddings. Levels
    are token grids of nested views (`--tokens`). Each is seen coarsely, and where 14 x 14 cells or more are stored also
    finely over the fields of the levels before: 49, 98 and 114 tokens. Of 7 x 7 grids there are coarse tokens alone,
    which `chosen_` calls "coarse only (no-DPE)" after the paper's ablation.

    Blocks: attention within a level; between levels; a gate over all channels. `paper` follows the paper's text: normed
    attention, and between levels the weighted sum of its Eq. 1, where the residual is ours. `code` follows its code:
    nothing normed before attention, and between levels the attended outputs side by side, without a residual. The
    random mask that the paper names is in neither. The default is `paper`'s block at a small width on 64 principal
    components of each token, with an adapter a level, coarse tokens of 3 x 3 cells, mean tokens beside the class tokens
    and one hidden layer on the views' vectors, trained as all default heads. Cost on one core: about 0.4 s an epoch at
    800 spots.

    `paper` and `code` train by Adam at 1e-4 on squared error in batches of 96, one member. The 100 (200) published
    epochs take hours on a CPU, so the number is chosen among 5 and 10 on inner folds; `epochs=100` gives the published.

    Parameters
    ----------
    mode
        "default", "paper" or "code".
    width, depth, heads
        Of the blocks; 192, 4 and 3 as published, else 32, 1 and 1.
    coarse
        Cells a side of the coarse tokens; 7 as published, else 3.
    levels
        "all", or one of 0 (finest), 1, 2: an ablation, with the vector of that view alone.
    reduce, vectors, hidden, rank, dropout, weight_decay
        Of the default mode, as in `M2ORT`.
    anchor, epochs, members, seed, device
        As in `NeuralHead`.
    """

    choices: ClassVar = {"levels": LEVELS}

    candidates = (5, 10)

    def __init__(
        self,
        *,
        mode: str = "default",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        coarse: int | None = None,
        levels: str | int = "all",
        reduce: int | None = 64,
        vectors: bool = True,
        hidden: int = 256,
        rank: int | None = None,
        dropout: float = 0.3,
        weight_decay: float = 0.05,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if mode not in MODES:
            msg = f"mode={mode!r}: choose {', '.join(MODES)}"
            raise HeadError(msg)
        published = mode != "default"
        default = DefaultMode(
            reduce=reduce, vectors=vectors, hidden=hidden, rank=rank, dropout=dropout, weight_decay=weight_decay
        )
        super().__init__(
            default, published=published, anchor=anchor, epochs=epochs, members=members, seed=seed, device=device
        )
        self.mode, self.levels = mode, levels
        self.heads = heads or (3 if published else 1)
        self.width, self.depth = width or (192 if published else 32), depth or (4 if published else 1)
        self.coarse = coarse or (COARSE if published else 3)

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[Level, ...]:
        """Token grids of growing fields, finest first.

        Raises
        ------
        HeadError
            If the features have none, or not those asked for.
        """
        found = grid_levels(rows, grid=SIDE)
        return chosen_levels(found, self.levels, head="m2ost", make=how_to_get(table, GRIDS))

    def told(self, levels: tuple[Level, ...]) -> dict[str, Any]:
        """Levels, the tokens of each, and whether there are fine ones."""
        sets = nested_sets(levels, coarse=self.coarse)
        fine = "fine and coarse" if any(len(one) > 1 for one in sets) else "coarse only (no-DPE)"
        return super().told(levels) | {"tokens": [sum(map(len, one)) for one in sets], "token_sets": fine}

    def build(self, shape: Shape) -> HeadModule:
        """Make the network."""
        levels, vectors = self.levels_in(shape), self.vectors_in(shape)
        dims = shape.dims[: len(levels)]
        return NestedMixer(
            dims if self.mode == "default" else dims[:1],
            nested_sets(levels, coarse=self.coarse),
            n_genes=shape.n_genes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mixer="code" if self.mode == "code" else "paper",
            vectors=vectors,
            hidden=self.hidden,
            rank=self.rank,
            pooled=self.pooled,
            dropout=self.dropout,
        )


def nested_sets(levels: tuple[Level, ...], *, coarse: int) -> list[list[Tensor]]:
    """Weights (cells, stored cells) of the token sets of each level, finest first.

    Every level is seen in `coarse` x `coarse` cells; and where it stores enough of them, in 7 x 7 cells over the field
    of the level before and in 4 x 4 over that of the one before that: 49, 98 and 114 tokens of 14 x 14 grids. The
    central quarter of 14 x 14 is 3.5 cells wide and taken as 4.
    """
    out = []
    for i, level in enumerate(levels):
        sets = []
        for j, inner in enumerate(levels[:i]):
            cells = -(-COARSE // 2 ** (i - j - 1))
            share = inner.field_um / level.field_um
            if share < 1 and level.side * share >= cells - 0.5:
                field_um = level.field_um * max(share, cells / level.side)
                sets.append(cells_onto(level.side, level.field_um, to=cells, to_field_um=field_um))
        sets.append(cells_onto(level.side, level.field_um, to=coarse, to_field_um=level.field_um))
        out.append(sets)
    return out
