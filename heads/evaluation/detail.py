"""What the report's distributions, calibration plots and ceiling lines are drawn from, beyond the records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError


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
