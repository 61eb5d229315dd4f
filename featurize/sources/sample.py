"""What a cohort is, whatever its source: samples, each an image and perhaps spots with counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ...store.arrays import Floats, Ints, Strings
from ...store.errors import TissuaryError
from ...store.naming import UNKNOWN_PATIENT


@dataclass(frozen=True)
class Spots:
    """Measured locations of one slide.

    Attributes
    ----------
    barcode
        (n,) names, each once.
    center_px
        (n, 2) float64 centres in level-0 pixels, x then y.
    array
        (n, 2) int32 row and column, where the source says.
    diameter_px
        Of a spot, level-0 pixels, where the source says.
    labels
        (n,) text by name of column: columns of few values, which may tell sections apart.
    background
        Names of spots beside the tissue, which were left out.
    """

    barcode: Strings
    center_px: Floats
    array: Ints | None
    diameter_px: float | None = None
    labels: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    background: Strings = field(default_factory=lambda: np.array([], dtype=np.str_))

    def select(self, rows: Ints) -> Spots:
        """Some spots, in the order given."""
        return replace(
            self,
            barcode=self.barcode[rows],
            center_px=self.center_px[rows],
            array=None if self.array is None else self.array[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
        )


@dataclass(frozen=True)
class MeasuredSpots:
    """Spots and what was counted in them.

    Attributes
    ----------
    counts
        (n, n_genes) float32 raw counts, rows as the spots.
    genes
        (n_genes,) names, each once.
    """

    spots: Spots
    counts: csr_matrix
    genes: Strings


@dataclass(frozen=True)
class Sample:
    """One slide of a cohort, as its source describes it; nothing is read yet.

    Attributes
    ----------
    patient_id
        `unknown:<slide_id>` where the source does not say.
    mpp
        um per level-0 pixel, as the source declares.
    pitch_um
        Distance of neighbouring spots in um, as declared.
    read_measured
        Reads spots and counts; None for a slide without.
    declared_in
        What of the source declares `mpp` and `pitch_um`.
    """

    slide_id: str
    patient_id: str
    image: Path
    mpp: float | None = None
    pitch_um: float | None = None
    read_measured: Callable[[], MeasuredSpots] | None = None
    declared_in: str = "manifest"


@dataclass(frozen=True)
class Refused:
    """One slide of a cohort that cannot be used as its source describes it, and why."""

    slide_id: str
    cause: TissuaryError


NO_IMAGE = "no image"
"""Reason of a `LeftOut` that nobody took for a slide, such as a table."""


@dataclass(frozen=True)
class LeftOut:
    """A file or folder of a source that is no slide of the cohort, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Cohort:
    """Slides to featurize.

    Attributes
    ----------
    source
        Which reader found them, and why it was chosen.
    refused
        Slide and cause, of the slides that are not among the samples because their source cannot be used.
    left_out
        Name and reason, of the files and folders in a folder of images that are no slide.
    """

    samples: tuple[Sample, ...]
    source: str
    refused: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def unknown_patient(slide_id: str) -> str:
    """Patient id of a slide whose source does not name the patient."""
    return f"{UNKNOWN_PATIENT}{slide_id}"
