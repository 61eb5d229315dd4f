"""TRIPLEX (CVPR 2024) on stored features: a spot, the window around it, and the whole slide."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import numpy as np

from ....store.arrays import Ints
from ....store.errors import HeadError
from ....store.spatial.neighbourhood import Neighbourhood
from ....store.table import Table
from ...engine.head import NeuralHead
from ...engine.neighbours import NEIGHBOURS, NeighbourRule, kinds_of, shuffled_within
from ...engine.network import HeadModule, NetworkShape
from ...engine.rows import RowData
from ...engine.training import TrainingOptions
from .network import SIDE, ResidualTriplex, TriplexWidths
from .paper import PublishedTriplex

MODES = ("default", "paper")
DIM, PAPER_DIM, PAPER_EPOCHS = 128, 512, 20

OWN = TrainingOptions(batch=64)
"""Small steps: with whole slides a cohort of a few would give a few steps an epoch, which is not enough."""

PUBLISHED = TrainingOptions(
    batch=128, lr=1e-4, lr_end=1e-4, warmup=0.0, weight_decay=0.0, clip=1e9, pearson_weight=0.0, unit_spread=False,
    weighted=False,
)  # fmt: skip


class Triplex(NeuralHead):
    """A spot, its neighbours and its slide.

    Mode `default`: one adapter for all rows; neighbours in rings of tissue, look-alikes where asked for, and the spots
    of the slide (attention that falls with distance as each head learns it) are added to the spot through gates that
    start at 0.1. `chosen_["branch_gates"]` tells how far they opened.

    Mode `paper`: three branches with adapters of their own: the spot; the 5 x 5 window of its array (the 25 nearest
    spots where there is no array) through a layer of masked attention with relative bias; the slide through a
    positional convolution and two layers of attention. The slide's token asks the spot and the window; every branch has
    its own linear output, which learns 0.7 of the targets and 0.3 of the fused prediction. Adam at 1e-4, batches of 128
    spots, predictions cut off at zero where targets are not centred. Published is early stopping after 20 epochs
    without gain on the test fold; here 20 epochs are run, since there is no honest fold to stop on. The original trains
    a residual network on pixels for the spot (49 tokens); of frozen features there is one token, and attention over it
    is a linear map. Depths of its layers are not known: one for the window, two for the slide. In training a spot sees
    the spots of its slide that are in the step, in prediction all of them.

    Epochs of `default` are 20, not chosen: more were better than fewer on all inner folds seen, and choosing would
    cost three times the training. Cost of `default`: some five core-seconds a member for 850 spots x 1,000 features;
    of `paper`: 25 tokens a spot of width 512, minutes a fold on one core.

    Parameters
    ----------
    mode
        "default" or "paper".
    dim
        Width; 128, or 512 in `paper`.
    rank, dropout
        Of the output layer; of features and hidden units. `default` only.
    slide
        Whether there is a branch of the slide. `default` only.
    distillation
        Weight of the losses of the spot alone, which the targets and the whole prediction teach. `default` only.
    neighbours, per_ring, look_alikes
        As in `NeuralHead` and `NeighbourRule`; `paper` has its window.
    shuffled
        Whether neighbours, and places on the slide, are those of another row: an ablation.
    anchor, epochs, members, seed, device
        As in `NeuralHead`; 20 epochs and two members, one in `paper`, where not told.
    """

    choices: ClassVar = {"neighbours": NEIGHBOURS}

    candidates = (20,)

    def __init__(
        self,
        *,
        mode: str = "default",
        dim: int | None = None,
        rank: int = 32,
        dropout: float = 0.3,
        slide: bool = True,
        distillation: float = 0.0,
        neighbours: str = "space",
        per_ring: int = 8,
        look_alikes: int = 8,
        shuffled: bool = False,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        super().__init__(
            neighbours=neighbours,
            rule=NeighbourRule(per_ring=per_ring, look_alikes=look_alikes, shuffled=shuffled),
            anchor=anchor,
            training=PUBLISHED if paper else OWN,
            epochs=PAPER_EPOCHS if paper and epochs is None else epochs,
            members=(1 if paper else 2) if members is None else members,
            seed=seed,
            device=device,
        )
        self.mode, self.dim, self.rank, self.dropout = mode, dim, rank, dropout
        self.slide, self.distillation = slide, distillation
        self.per_ring, self.look_alikes, self.shuffled = per_ring, look_alikes, shuffled

    @property
    def expression(self) -> bool:  # type: ignore[override]
        """Look-alikes come with their training expression."""
        return kinds_of(self.neighbours)[1]

    @property
    def context_um(self) -> float | None:
        """As every neural head; the branch of the slide, and `paper`, look at whole slides."""
        return None if self.mode == "paper" or self.slide or self.shuffled else super().context_um

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        if self.mode == "paper":
            return PublishedTriplex(shape, dim=self.dim or PAPER_DIM)
        space, feature = kinds_of(self.neighbours)
        widths = TriplexWidths(self.dim or DIM, self.rank, self.dropout, self.distillation)
        return ResidualTriplex(shape, widths, space=space, feature=feature, slide=self.slide)

    def prepare(self, module: HeadModule, data: RowData, rows: Ints, *, seed: int) -> None:
        """Tell the published network whether targets are whole values."""
        if isinstance(module, PublishedTriplex):
            module.start(data)

    def fit(self, table: Table) -> Self:
        """Learn from a prepared table.

        Raises
        ------
        HeadError
            If the mode does not exist, or `paper` is asked for other neighbours than its window.
        """
        if self.mode not in MODES:
            msg = f"triplex has no mode {self.mode!r}: choose {' or '.join(MODES)}"
            raise HeadError(msg)
        if self.mode == "paper" and self.neighbours != "space":
            msg = f"triplex in mode paper looks at its 5 x 5 window: neighbours={self.neighbours!r} is for mode default"
            raise HeadError(msg)
        super().fit(table)
        gates = [[float(gate.detach().abs().mean()) for gate in getattr(one, "gates", ())] for one in self.modules_]
        if gates[0]:
            space, feature = kinds_of(self.neighbours)
            names = ["space"] * space + ["feature"] * feature + ["slide"] * self.slide
            self.chosen_["branch_gates"] = dict(zip(names, np.mean(gates, axis=0).tolist(), strict=True))
        return self

    def _rows(self, table: Table) -> RowData:
        data = super()._rows(table)
        if self.mode == "paper":
            found = window(table)
            donor = None
            if self.shuffled:
                found, donor = shuffled_within(found, table.slide, seed=self.seed)
            data = replace(data, space=found, donor=donor)
        if self.shuffled:
            data = replace(data, place_um=_shuffled_places(table, seed=self.seed))
        return data


def window(table: Table) -> Neighbourhood:
    """The 5 x 5 window of every row, itself in the middle, (n, 25); the 25 nearest rows where there is no array.

    A hexagonal array's window has 19 places; the others are masked.
    """
    places = table.places
    found = places.nearest(SIDE**2, self_included=True) if table.array is None else places.lattice(SIDE)
    short = SIDE**2 - found.k
    if short <= 0:
        return found
    pad = [(0, 0), (0, short)]
    return Neighbourhood(
        np.pad(found.index, pad), np.pad(found.mask, pad), np.pad(found.distance, pad, constant_values=np.inf)
    )


def _shuffled_places(table: Table, *, seed: int) -> np.ndarray:
    """Every row at the place of another of its slide."""
    rng, places = np.random.default_rng(seed), table.center_um.copy()
    for one in np.unique(table.slide):
        here = np.flatnonzero(table.slide == one)
        places[here] = table.center_um[rng.permutation(here)]
    return places
