"""What a comparison of heads leaves behind: the records, the maps worth looking at, and what a reader must know."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...store.arrays import Floats, Ints, Pixels
from ...store.errors import HeadError
from ..protocols.protocol import Protocol


@dataclass(frozen=True)
class Calibration:
    """What was measured where a head predicted so much, in target units.

    Parameters
    ----------
    predicted, measured
        Mean prediction and mean measured value of each bin, bins of about as many values each, (n_bins,).
    values
        Number of (spot, gene) values in each bin, (n_bins,).
    slope
        Of the least-squares line of measured on predicted over all values; NaN where the prediction is constant.

    Raises
    ------
    HeadError
        Where the three have different lengths.
    """

    predicted: Floats
    measured: Floats
    values: Ints
    slope: float

    def __post_init__(self) -> None:
        if not len(self.predicted) == len(self.measured) == len(self.values):
            msg = (
                f"A calibration came with {len(self.predicted)} predicted, {len(self.measured)} measured means and "
                f"{len(self.values)} sizes; give one of each per bin."
            )
            raise HeadError(msg)


@dataclass(frozen=True)
class HeadDetail:
    """Scores of one head gene by gene and slide by slide, and its calibration.

    Parameters
    ----------
    line
        Protocol, backbone, views and label of the head, as `lines.Line`.
    genes, gene_pcc
        Names of the genes of all folds' panels, and for each the mean over test slides of the within-slide Pearson, NaN
        where it is undefined on all, (n_genes,).
    slides, slide_pcc
        Names of the test slides, and for each the mean over genes of the within-slide Pearson, NaN where no gene is
        defined, (n_slides,).
    within, whole
        Calibration of deviations from the slide's mean of the gene, and of whole values.
    """

    line: tuple[str, str, str, str]
    genes: tuple[str, ...]
    gene_pcc: Floats
    slides: tuple[str, ...]
    slide_pcc: Floats
    within: Calibration
    whole: Calibration


@dataclass(frozen=True)
class Ceiling:
    """How far the within-slide Pearson can reach under one protocol, estimated from counts alone.

    Parameters
    ----------
    protocol
        Its name.
    genes
        The genes of all folds' panels.
    counting
        Within-slide Pearson of who knows every spot's expected counts: an upper bound, (n_genes,). See
        `ceiling.counting_ceiling`.
    other_genes
        Within-slide Pearson of ridge that reads the spot's other genes: a mark that was reached, (n_genes,). See
        `other_genes.from_other_genes`.
    counting_mean, other_genes_mean
        Averaged as the headline score is: over test slides, of the mean over the genes of their fold's panel.
    """

    protocol: str
    genes: tuple[str, ...]
    counting: Floats
    other_genes: Floats
    counting_mean: float
    other_genes_mean: float

    @property
    def defined(self) -> bool:
        """Whether there is a line to draw."""
        return bool(np.isfinite(self.counting_mean))


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
