"""M2ORT: levels aligned over one region, their channels side by side, mixed over tissue and over channels."""

from __future__ import annotations

from typing import ClassVar

from ..store.errors import HeadError
from ..store.table import Table
from .engine.module import HeadModule, Shape
from .m2ort_layers import ATTENTIONS, AlignedMixer, MixerSize
from .tokens import GRIDS, LAYOUTS, LEVELS, TILES, Level, Rows, aligned_levels, chosen_levels, how_to_get
from .tokens_head import DefaultMode, TokenHead
from .tokens_onto import cells_onto

SIZES = {
    "nano": MixerSize(width=32, depth=1, heads=3, head_dim=32, hidden=64),
    "tiny": MixerSize(width=128, depth=2, heads=6, head_dim=64, hidden=256),
    "small": MixerSize(width=192, depth=6, heads=9, head_dim=64, hidden=384),
    "base": MixerSize(width=256, depth=8, heads=12, head_dim=64, hidden=512),
    "large": MixerSize(width=384, depth=12, heads=18, head_dim=64, hidden=768),
}
"""Small, base and large as published; tiny and nano are ours, for a few thousand spots."""

GRID, PAPER_GRID = 4, 7
"""Cells a side onto which token grids are brought where none is asked for."""

MODES = ("default", "paper")


class M2ORT(TokenHead):
    """Tokens of several resolutions that show the same tissue, mixed by attention and over channels.

    After arXiv 2401.10608 (M2ORT) and its code, on stored tokens: adapters take the place of its pixel embeddings.
    Levels show one region: sub-tiles of the `aligned` layout, or token grids, of which the part is taken that all views
    show. `paper` is the code's network, whose one attention takes query, key and value from the channels of the three
    levels. The default attends within each level, as the method's name says, at a small width on 64 principal
    components of each token, with mean tokens beside the class token and one hidden layer on the views' vectors. Cost
    on one core: about 0.3 s an epoch at 800 spots.

    `paper` trains by Adam at 1e-4 on squared error in batches of 96, one member. Its 200 published epochs take hours on
    a CPU, so the number is chosen among 5 and 10 on inner folds; `epochs=200` gives the published.

    Parameters
    ----------
    mode
        "default" or "paper".
    size
        Of `SIZES`; "nano", in `paper` "tiny".
    attention
        "intra" or "code"; as the mode says where not given.
    levels
        "all", or one of 0 (finest), 1, 2: an ablation, with the vector of that view alone.
    layout
        "tiles", "grid", or "auto": sub-tiles where there are any.
    grid
        Cells a side of the common grid; that of the finest sub-tiles, or 4 (7 in `paper`) of token grids.
    reduce
        Principal components of a token, learnt on training spots; None leaves tokens as stored.
    vectors
        Whether the views' whole-patch vectors are read beside the tokens, through `hidden` units.
    rank
        Of the output; None maps straight to the genes.
    dropout, weight_decay
        Of vectors, hidden units and what is read of the tokens; of AdamW.
    anchor, epochs, members, seed, device
        As in `NeuralHead`.
    """

    choices: ClassVar = {"layout": LAYOUTS, "levels": LEVELS, "size": tuple(SIZES), "attention": ATTENTIONS}

    candidates = (5, 10)

    def __init__(
        self,
        *,
        mode: str = "default",
        size: str | None = None,
        attention: str | None = None,
        levels: str | int = "all",
        layout: str = "auto",
        grid: int | None = None,
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
        paper = mode == "paper"
        default = DefaultMode(
            reduce=reduce, vectors=vectors, hidden=hidden, rank=rank, dropout=dropout, weight_decay=weight_decay
        )
        super().__init__(
            default, published=paper, anchor=anchor, epochs=epochs, members=members, seed=seed, device=device
        )
        self.mode, self.levels, self.layout, self.grid = mode, levels, layout, grid
        self.size = size or ("tiny" if paper else "nano")
        self.attention = attention or ("code" if paper else "intra")
        for name, value, choices in (("size", self.size, SIZES), ("attention", self.attention, ATTENTIONS)):
            if value not in choices:
                msg = f"{name}={value!r}: choose {', '.join(choices)}"
                raise HeadError(msg)

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[Level, ...]:
        """Levels over one region, finest first.

        Raises
        ------
        HeadError
            If the features have none, or not those asked for.
        """
        found = aligned_levels(rows, layout=self.layout, grid=self.grid or PAPER_GRID)
        return chosen_levels(found, self.levels, head="m2ort", make=how_to_get(table, TILES, GRIDS))

    def build(self, shape: Shape) -> HeadModule:
        """Make the network."""
        levels, vectors = self.levels_in(shape), self.vectors_in(shape)
        field_um = min(level.field_um for level in levels)
        grid = self.cells(levels)
        return AlignedMixer(
            shape.dims[: len(levels)],
            [cells_onto(one.side, one.field_um, to=grid, to_field_um=field_um) for one in levels],
            SIZES[self.size],
            n_genes=shape.n_genes,
            attention=self.attention,
            vectors=vectors,
            hidden=self.hidden,
            rank=self.rank,
            pooled=self.pooled,
            dropout=self.dropout,
        )

    def cells(self, levels: tuple[Level, ...]) -> int:
        """Cells a side of the common grid: as asked, else the finest sub-tiles', else 4 (7 in `paper`) of grids."""
        if self.grid is not None:
            return self.grid
        tiled = max((level.side for level in levels if ".tiles" in level.key), default=0)
        return tiled or (PAPER_GRID if self.mode == "paper" else GRID)
