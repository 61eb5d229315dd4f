"""HEST-1k (`wsis/`, `st/*.h5ad`, `patches/*.h5`, `metadata/*.json`, the CSV), and patches of it without the slides.

Read at HEST afd42c3 with hestcore 1.0.6. HEST-bench has the same files with the counts in `adata`.

Jaume, G. et al. (2024). HEST-1k: a dataset for spatial transcriptomics and histology image analysis. NeurIPS 37.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...store.errors import CohortError
from ...store.exchange.hdf import open_foreign
from ...store.naming import known_text, patient_name
from ..slides.patches_h5 import is_precut, read_places, side_of
from .h5ad import read_h5ad
from .images import Listing, list_images, reading
from .sample import MeasuredSpots, Refused, Sample, Spots, unknown_patient
from .spots import CountMatrix, join

CSV = "HEST_v*.csv"


@dataclass(frozen=True)
class HestFacts:
    """What HEST-1k says of one slide.

    Attributes
    ----------
    patient
        As it names the patient; None where it does not.
    dataset
        Title of the study; names of patients are given within it.
    mpp
        um per pixel: `pixel_size_um_estimated`, which HEST itself goes by, else `pixel_size_um_embedded`.
    embedded_mpp
        `pixel_size_um_embedded`, of the image before HEST converted it. It is no claim on its own: more than half of
        those in HEST v1.1 differ from the estimate by more than 10 %.
    pitch_um
        `inter_spot_dist`.
    """

    patient: str | None = None
    dataset: str | None = None
    mpp: float | None = None
    embedded_mpp: float | None = None
    pitch_um: float | None = None


class HestMetadata:
    """The facts of every slide below a root; the JSON of a slide goes before its row in the CSV."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rows = _read_csv(root)

    def facts(self, slide_id: str) -> HestFacts:
        """What is said of one slide; nothing where HEST's metadata are not there.

        Raises
        ------
        CohortError
            If its JSON cannot be read, or a size in it is no positive number.
        """
        path = self._root / "metadata" / f"{slide_id}.json"
        said = dict(self._rows.get(slide_id, {}))
        with reading(path):
            text = path.read_bytes() if path.is_file() else None
        if text is not None:
            try:
                said |= dict(json.loads(text))
            except (ValueError, TypeError) as error:
                msg = f"{path} cannot be read as JSON ({error}): download it again"
                raise CohortError(msg) from error
        where = path if text is not None else self._root / CSV
        estimated, embedded = (_positive(said, f"pixel_size_um_{kind}", where) for kind in ("estimated", "embedded"))
        return HestFacts(
            patient_name(said.get("patient")),
            known_text(said.get("dataset_title")),
            estimated if estimated is not None else embedded,
            embedded,
            _positive(said, "inter_spot_dist", where),
        )


def _read_csv(root: Path) -> dict[str, dict[str, Any]]:
    """Rows by slide, of the newest CSV there is."""
    import polars

    with reading(root):
        files = sorted(root.glob(CSV))
    if not files:
        return {}
    try:
        table = polars.read_csv(files[-1], infer_schema=False)
        return {str(row["id"]): row for row in table.iter_rows(named=True)}
    except (polars.exceptions.PolarsError, OSError, KeyError) as error:
        msg = f"{files[-1]} cannot be read ({error}): wanted HEST's CSV with a column id; download it again"
        raise CohortError(msg) from error


def _positive(said: dict[str, Any], name: str, where: Path) -> float | None:
    text = known_text(said.get(name))
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        msg = f"{where}: {name} is {text!r}; wanted a positive number"
        raise CohortError(msg)
    return value


log = logging.getLogger(__name__)

PATCHES = "patches"
COUNTS = ("st", "adata")
DECLARED_IN = "HEST metadata"

ROUNDING_PX = 1.5
"""How far a spot may lie from the centre of its patch: corners are whole pixels, and half of an odd side is cut too."""

_EMBEDDED = 1.05


def hest_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample for each slide of which there is an image, counts or patches, by id.

    The image is that of `wsis`, or where it was not downloaded the patches. A slide with counts and no pixels is
    refused.

    Raises
    ------
    CohortError
        If the layout is not there, or the CSV cannot be read.
    """
    listing = _images(source / "wsis")
    images = {one.slide_id: one.path for one in listing.images}
    unclear = {one.slide_id: refused for one in listing.images if (refused := listing.unclear(one.slide_id))}
    patches = {path.stem: path for path in _h5(source / PATCHES)}
    counts = _counts(source)
    if not counts and not images:
        msg = f"{source} holds neither st/*.h5ad nor images in wsis, so it is not HEST-1k: give its root"
        raise CohortError(msg)
    samples = _samples(sorted({*images, *patches, *counts}), patches | images, counts, HestMetadata(source))
    return tuple(unclear.get(one.slide_id, one) for one in samples)


def hest_patch_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample for each file of patches: one file, those in a folder, or those in its folder `patches`.

    Counts are those of `st` or `adata` beside the patches, where there are any; what has no patch is left out.

    Raises
    ------
    CohortError
        If there is no such file.
    """
    files = [source] if source.is_file() else _h5(source / PATCHES) or _h5(source)
    if not files:
        msg = f"{source} holds no patches/*.h5 and no *.h5: give the folder of HEST's patches, or one of the files"
        raise CohortError(msg)
    folder = files[0].resolve().parent
    root = folder.parent if folder.name == PATCHES else folder
    counts = _counts(root)
    by_id = {path.stem.removesuffix("_patches"): path for path in files}
    return _samples(sorted(by_id), by_id, {name: counts[name] for name in by_id if name in counts}, HestMetadata(root))


def hest_why(source: Path) -> tuple[str, str] | None:
    """Which of the two formats a folder is, and why; None where it is neither."""
    patches = next((path for path in (*_h5(source / PATCHES), *_h5(source)) if is_precut(path)), None)
    counts = next((name for name in COUNTS if any(_h5ads(source / name))), None)
    if (source / "wsis").is_dir() and counts is not None:
        return "hest", f"the folder holds wsis and {counts}/*.h5ad"
    if patches is not None:
        found = f"the folder holds {patches.relative_to(source)} with pixels of patches"
        return ("hest", f"{found}, and {counts}/*.h5ad") if counts else ("hest-patches", found)
    return None


def _samples(
    ids: Iterable[str], pixels: dict[str, Path], counts: dict[str, Path], metadata: HestMetadata
) -> tuple[Sample | Refused, ...]:
    found: list[Sample | Refused] = []
    studies: dict[str, set[str]] = defaultdict(set)
    for slide_id in ids:
        try:
            facts = metadata.facts(slide_id)
            if slide_id not in pixels:
                msg = f"{counts[slide_id]} has neither an image in wsis nor patches/{slide_id}.h5: download one of them"
                raise CohortError(msg)
        except CohortError as error:
            found.append(Refused(slide_id, error))
            continue
        found.append(_sample(slide_id, pixels[slide_id], counts.get(slide_id), facts))
        if facts.patient is not None and facts.dataset is not None:
            studies[facts.patient].add(facts.dataset)
    for patient, titles in studies.items():
        if len(titles) > 1:
            log.warning(
                "patient %r is named by %d studies and taken for one person: give patient_id in a manifest if they are "
                "several", patient, len(titles),
            )  # fmt: skip
    return tuple(found)


def _sample(slide_id: str, pixels: Path, counts: Path | None, facts: HestFacts) -> Sample:
    if facts.mpp is not None and facts.embedded_mpp is not None:
        low, high = sorted((facts.mpp, facts.embedded_mpp))
        if high > _EMBEDDED * low:
            log.info(
                "slide %s: HEST estimates %g um/px from the spots and goes by that; its source image said %g",
                slide_id, facts.mpp, facts.embedded_mpp,
            )  # fmt: skip
    read = None
    if counts is not None:
        is_cut = pixels.suffix == ".h5"
        whole = partial(read_h5ad, counts, in_tissue=False)  # HEST's in_tissue means nothing
        read = partial(read_with_patches, slide_id, counts, pixels) if is_cut else whole
    return Sample(
        slide_id,
        facts.patient or unknown_patient(slide_id),
        pixels,
        mpp=facts.mpp,
        pitch_um=facts.pitch_um if read is not None else None,
        read_measured=read,
        declared_in=DECLARED_IN,
    )


def read_with_patches(slide_id: str, counts: Path, patches: Path) -> MeasuredSpots:
    """Read spots and counts of an AnnData, of those spots that have a patch.

    Raises
    ------
    CohortError
        If none has, or a spot does not lie in the middle of its patch.
    """
    measured = read_h5ad(counts, in_tissue=False)
    with open_foreign(patches) as file:
        barcode, corner_px = read_places(file, patches)
        side_px = side_of(file)
    row = {name: i for i, name in enumerate(barcode.tolist())}
    spots = measured.spots
    kept = np.array([i for i, name in enumerate(spots.barcode.tolist()) if name in row], dtype=np.int64)
    where = np.array([row[spots.barcode[i]] for i in kept.tolist()], dtype=np.int64)
    if len(kept) and side_px is not None:
        off = np.abs(corner_px[where] + side_px / 2 - spots.center_px[kept]).max(axis=1)
        if off.max() > ROUNDING_PX:
            worst = int(np.argmax(off))
            msg = (
                f"slide {slide_id}: spot {spots.barcode[kept[worst]]} of {counts} lies {off[worst]:.1f} px from the "
                f"middle of its patch in {patches}: are both files of this slide, and of one version of HEST?"
            )
            raise CohortError(msg)
    matrix = CountMatrix(spots.barcode, measured.genes, measured.counts)
    if not len(kept):  # `join` tells how the names differ
        return join(slide_id, Spots(barcode, corner_px.astype(np.float64), None), matrix)
    return join(slide_id, spots.select(kept), matrix)


def _counts(root: Path) -> dict[str, Path]:
    """Files of counts by slide, of the first folder that holds any."""
    for name in COUNTS:
        found = {path.stem: path for path in _h5ads(root / name)}
        if found:
            return found
    return {}


def _images(folder: Path) -> Listing:
    with reading(folder):
        return list_images(folder) if folder.is_dir() else Listing(())


def _h5(folder: Path) -> list[Path]:
    return _with_suffix(folder, ".h5")


def _h5ads(folder: Path) -> list[Path]:
    return _with_suffix(folder, ".h5ad")


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    with reading(folder):
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.suffix == suffix and not p.name.startswith(".") and p.is_file())
