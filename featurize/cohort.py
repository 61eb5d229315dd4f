"""What a cohort is, whatever its source: samples, each an image and perhaps spots with counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..store.arrays import Floats, Ints, Strings
from ..store.errors import CohortError, InvalidNameError, ScaleError, TissuaryError
from ..store.foreign import tool_output
from ..store.naming import UNKNOWN_PATIENT, check_name
from ..store.scale import MAX_DISAGREEMENT

_OUTPUT_SUFFIXES = (".h5", ".pt", ".npz", ".json")
"""Endings of single files that are no image and that other tools write."""


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
class Measured:
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
    read_measured: Callable[[], Measured] | None = None
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


def load_cohort(source: Path, *, format: str = "auto", pitch_um: float | None = None) -> Cohort:
    """Describe the slides of a source, in a fixed order.

    Images and counts are not opened yet, so that a damaged one costs only its own slide. A slide whose id cannot become
    a file name, or that lacks its image, is refused alone, as long as there are others.

    Parameters
    ----------
    source
        A folder, manifest or image.
    format
        A key of `tissuary.featurize.sources.SOURCES`, or "auto".
    pitch_um
        Spot pitch of every slide that has spots; one that the source declares must agree with it.

    Raises
    ------
    CohortError
        If there is nothing at `source` that can be read, a slide id occurs twice, or every slide is refused.
    InvalidNameError
        If every slide is refused, the first because its id cannot become a file name.
    ScaleError
        If a pitch that the source declares and `pitch_um` contradict one another.
    """
    from .sources.access import reading

    with reading(source):
        everything, chosen = _find(source, format)
    found = [one for one in everything if not isinstance(one, LeftOut)]
    left_out = tuple((one.name, one.reason) for one in everything if isinstance(one, LeftOut))
    repeated = [name for name, times in Counter(one.slide_id for one in found).items() if times > 1]
    if repeated:
        msg = f"{source}: slide id {', '.join(repeated)} occurs more than once: rename, so that each slide has its own"
        raise CohortError(msg)
    named = [_named(one) for one in found]
    samples = tuple(_with_pitch(one, pitch_um) for one in named if isinstance(one, Sample))
    refused = [one for one in named if isinstance(one, Refused)]
    if not samples:
        first = refused[0].cause
        for other in refused[1:]:
            first.add_note(f"{other.slide_id}: {other.cause}")
        raise first
    return Cohort(samples, chosen, tuple((one.slide_id, str(one.cause)) for one in refused), left_out)


def _find(source: Path, format: str) -> tuple[tuple[Sample | Refused | LeftOut, ...], str]:
    """What the reader of a format finds, and which reader that is."""
    from .sources import SOURCES, detect

    if not source.exists():
        msg = f"{source} does not exist: give a folder, a manifest or an image"
        raise CohortError(msg)
    if format == "auto":
        try:
            format, why = detect(source)
        except CohortError as error:
            if (output := tool_output(source)) is None:
                raise
            raise CohortError(str(output)) from error
        _check_no_output(source, format)
    elif format in SOURCES:
        why = "as asked"
    else:
        msg = f"format {format!r} is not known: choose one of auto, {', '.join(SOURCES)}"
        raise CohortError(msg)
    return SOURCES[format](source), f"{format}: {why}"


def _check_no_output(source: Path, format: str) -> None:
    """Refuse what only looks like a cohort: a table, counts, one file or pictures that another tool wrote as output.

    Raises
    ------
    CohortError
        If it is, with what can be done.
    """
    folder = {one for one in source.iterdir() if one.is_file()} if format == "slides" and source.is_dir() else set()
    beside_features = bool(folder) and all(  # STAMP leaves a picture beside each file
        one.suffix == ".h5" or (one.suffix == ".jpg" and one.with_suffix(".h5") in folder) for one in folder
    )
    file = source.is_file() and format == "slides" and source.suffix in _OUTPUT_SUFFIXES
    if format not in ("manifest", "h5ad") and not beside_features and not file:
        return
    output = tool_output(source)
    if output is not None and (
        file or output.tool in ("eva", "spared") or (beside_features and output.tool == "STAMP")
    ):
        raise CohortError(str(output))


def _named(found: Sample | Refused) -> Sample | Refused:
    """What was found, refused where its id cannot become a file name."""
    try:
        check_name(found.slide_id, "slide id")
    except InvalidNameError as error:
        return Refused(found.slide_id, error)
    return found


def unknown_patient(slide_id: str) -> str:
    """Patient id of a slide whose source does not name the patient."""
    return f"{UNKNOWN_PATIENT}{slide_id}"


def _with_pitch(sample: Sample, pitch_um: float | None) -> Sample:
    """The sample with the pitch of the command line, where its source gives none."""
    if pitch_um is None or sample.read_measured is None:
        return sample
    if sample.pitch_um is None:
        return replace(sample, pitch_um=pitch_um)
    if max(sample.pitch_um, pitch_um) > MAX_DISAGREEMENT * min(sample.pitch_um, pitch_um):
        msg = (
            f"slide {sample.slide_id}: its {sample.declared_in} says a spot pitch of {sample.pitch_um:g} um, "
            f"--pitch-um {pitch_um:g}: correct one of them"
        )
        raise ScaleError(msg)
    return sample
