"""What a comparison of heads leaves behind: the records, the maps worth looking at, and what a reader must know."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...store.arrays import Floats, Pixels
from ...store.errors import HeadError
from .detail import Ceiling, HeadDetail
from .protocol_record import Protocol

Record = dict[str, object]


@dataclass(frozen=True)
class GeneMap:
    """One gene on one slide, measured and predicted.

    Parameters
    ----------
    gene, slide_id
        What is shown, and where.
    role
        Why it was chosen: ``"best gene"``, ``"median gene"`` or ``"chosen gene"``.
    center_um
        Spot centres from the slide's upper left corner, x then y, of shape (n, 2).
    measured, predicted
        In the units of the target, of shape (n,).
    pcc
        The Pearson correlation of the two.
    head
        The head that predicts.
    thumbnail
        The slide in small, of shape (height, width, 3), or None.
    thumbnail_um_per_px
        Its scale; None where there is no thumbnail.
    unit
        Of measured and predicted values, as the colour bars say it.

    Raises
    ------
    HeadError
        Where spots and values do not match, or a thumbnail has no scale.
    """

    gene: str
    slide_id: str
    role: str
    center_um: Floats
    measured: Floats
    predicted: Floats
    pcc: float
    head: str
    thumbnail: Pixels | None = None
    thumbnail_um_per_px: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        n = len(self.center_um)
        shapes = (np.shape(self.center_um), np.shape(self.measured), np.shape(self.predicted))
        if shapes != ((n, 2), (n,), (n,)):
            msg = (
                f"The map of gene {self.gene!r} on slide {self.slide_id!r} came with centres, measured and predicted "
                f"values of shapes {shapes}; wanted (n, 2), (n,) and (n,) for the same n spots."
            )
            raise HeadError(msg)
        if self.thumbnail is not None and not (self.thumbnail_um_per_px and self.thumbnail_um_per_px > 0):
            msg = (
                f"The thumbnail of slide {self.slide_id!r} came with the scale {self.thumbnail_um_per_px!r}; "
                "give thumbnail_um_per_px, a positive number, with every thumbnail."
            )
            raise HeadError(msg)


@dataclass(frozen=True)
class Comparison:
    """Everything the leaderboard, the results files and the report are made from.

    Parameters
    ----------
    protocols
        The protocols that were run, in the order in which they are shown.
    records
        One flat mapping per head, protocol and fold, and one with fold ``"all"`` that aggregates them; the fields are
        those of `results_file.FIELDS`. ``control`` and ``diagnostic`` mark records that are no contestants.
    warnings
        What limits the conclusions, one sentence each.
    skipped
        Heads that were not run, with the reason and the command that makes what they lack.
    maps
        Genes to show, in order.
    provenance
        Names of what the numbers depend on: store, fingerprints, versions, machine, licences, date, command. Values
        may be nested mappings and lists.
    folds
        Training slides, test slides and genes of each fold, by protocol and fold.
    details
        Scores by gene and by slide, and calibration, of each line; `head_detail.head_details` makes them.
    ceilings
        How far the within-slide score can reach, one for a protocol; `protocol_ceiling.protocol_ceiling` makes it.
    """

    protocols: tuple[Protocol, ...]
    records: tuple[Record, ...]
    warnings: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    maps: tuple[GeneMap, ...]
    provenance: dict[str, object]
    folds: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)
    details: tuple[HeadDetail, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
