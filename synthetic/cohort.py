"""A cohort on disk: manifest, pyramidal slides, counts, and the truth they were made from."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..store.arrays import Floats, Ints, Strings
from ..store.errors import CohortError
from ..store.files.expression import names_index
from ..store.files.slide import SYNTHETIC_SOFTWARE
from .expression import Counts, GeneModel, draw_counts, draw_genes, draw_offset
from .pyramid import write_pyramid
from .render import render_section
from .stain import draw_stain, vary_stain
from .tissue import (
    LATENTS,
    MARGIN_UM,
    Tissue,
    array_centers_um,
    context,
    grow_tissue,
    local_morphology,
    spots_on_tissue,
)

MPP = 0.5
MANIFEST_COLUMNS = ("slide_id", "patient_id", "image", "mpp", "pitch_um", "counts", "spots")
PATIENT_SPREAD = 0.35
SLIDE_SPREAD = 0.15
"""Standard deviation of patient and slide effects on the logarithm of each gene."""

# Each random stream has a number, so that slides do not depend on the order in which they are made.
_GENES, _PATIENT, _TISSUE, _PICTURE, _COUNTS = range(5)


@dataclass(frozen=True)
class CohortSpec:
    """The size of a synthetic cohort, and its seed.

    Attributes
    ----------
    patients, slides_per_patient
        How many; ids run `P01`, `P01-S1`.
    seed
        The same seed gives the same pixels and counts, whatever the number of workers.
    spots_per_side
        Side of the square array; some 12 % of its spots fall beside the tissue and are left out.
    pitch_um
        From spot to spot.
    n_genes
        How many genes are counted.
    """

    patients: int = 6
    slides_per_patient: int = 2
    seed: int = 0
    spots_per_side: int = 12
    pitch_um: float = 200.0
    n_genes: int = 320

    @property
    def side_um(self) -> float:
        """Side of a slide's square image."""
        return (self.spots_per_side - 1) * self.pitch_um + 2 * MARGIN_UM

    def rng(self, *stream: int) -> np.random.Generator:
        """Return the independent source of one random stream."""
        return np.random.default_rng([self.seed, *stream])


@dataclass(frozen=True)
class _Section:
    """One slide of the cohort: numbers of its patient and itself, from 0."""

    patient: int
    number: int

    @property
    def patient_id(self) -> str:
        return f"P{self.patient + 1:02d}"

    @property
    def slide_id(self) -> str:
        return f"{self.patient_id}-S{self.number + 1}"


def write_cohort(
    out: str | Path,
    *,
    patients: int = 6,
    slides_per_patient: int = 2,
    seed: int = 0,
    spots_per_side: int = 12,
    pitch_um: float = 200.0,
    n_genes: int = 320,
) -> Path:
    """Write a cohort whose answer is known; `CohortSpec` explains the options.

    Returns
    -------
    Path
        The manifest, `<out>/manifest.csv`, beside `images/`, `counts/` and `truth/`.

    Raises
    ------
    CohortError
        If a size is too small to make a cohort.
    """
    spec = CohortSpec(patients, slides_per_patient, seed, spots_per_side, pitch_um, n_genes)
    return write_spec(Path(out), spec, workers=min(2, os.cpu_count() or 1))


def write_spec(out: Path, spec: CohortSpec, *, workers: int) -> Path:
    """Write the cohort of `spec` with so many slides at a time; see `write_cohort`."""
    _check(spec)
    manifest = out / "manifest.csv"
    # The manifest goes first and comes last: a folder that has one holds a whole cohort.
    manifest.unlink(missing_ok=True)
    for folder in ("images", "counts", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    genes = draw_genes(spec.rng(_GENES), spec.n_genes)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda section: _write_slide(out, spec, section, genes), _sections(spec)))
    _write_manifest(manifest, spec)
    return manifest


def _write_manifest(manifest: Path, spec: CohortSpec) -> None:
    """One row a slide, paths relative to the manifest; the h5ad holds the spots."""
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        for section in _sections(spec):
            name = section.slide_id
            paths = (f"images/{name}.tif", f"counts/{name}.h5ad")
            writer.writerow((name, section.patient_id, paths[0], MPP, spec.pitch_um, paths[1], ""))


def _check(spec: CohortSpec) -> None:
    least = {"patients": 1, "slides_per_patient": 1, "seed": 0, "spots_per_side": 3, "pitch_um": 100.0, "n_genes": 10}
    for name, smallest in least.items():
        if getattr(spec, name) < smallest:
            msg = f"a synthetic cohort with {name}={getattr(spec, name)} cannot be made: give {smallest} or more"
            raise CohortError(msg)


def _sections(spec: CohortSpec) -> Iterator[_Section]:
    for patient in range(spec.patients):
        for number in range(spec.slides_per_patient):
            yield _Section(patient, number)


def _write_slide(out: Path, spec: CohortSpec, section: _Section, genes: GeneModel) -> None:
    """Make one slide from its own random streams and write its three files."""
    ids = (section.patient, section.number)
    centers_um, array = array_centers_um(spec.spots_per_side, spec.pitch_um)
    tissue = grow_tissue(spec.rng(_TISSUE, *ids), side_um=spec.side_um, centers_um=centers_um)
    _write_picture(out / "images" / f"{section.slide_id}.tif", spec, section, tissue)
    kept = spots_on_tissue(tissue, centers_um)
    centers_um, array = centers_um[kept], array[kept]
    morphology, around = local_morphology(tissue, centers_um), context(tissue, centers_um)
    rng = spec.rng(_COUNTS, *ids)
    patient_offset = draw_offset(spec.rng(_PATIENT, section.patient, 1), spec.n_genes, spread=PATIENT_SPREAD)
    slide_offset = draw_offset(rng, spec.n_genes, spread=SLIDE_SPREAD)
    counts = draw_counts(genes, morphology, around, offset=patient_offset + slide_offset, rng=rng)
    _write_counts(out / "counts" / f"{section.slide_id}.h5ad", counts, genes, array, centers_um / MPP)
    np.savez_compressed(
        out / "truth" / f"{section.slide_id}.npz",
        latents=np.array(LATENTS),
        genes=genes.genes,
        group=genes.group,
        local=genes.local,
        interaction=genes.interaction,
        dispersion=genes.dispersion,
        barcode=_barcodes(array),
        morphology=morphology,
        context=around,
        mean=counts.mean.astype(np.float32),
        depth=counts.depth,
        rate=counts.rate.astype(np.float32),
        explainable=counts.explainable,
    )


def _write_picture(path: Path, spec: CohortSpec, section: _Section, tissue: Tissue) -> None:
    rng = spec.rng(_PICTURE, section.patient, section.number)
    stain = vary_stain(draw_stain(spec.rng(_PATIENT, section.patient, 0)), rng)
    picture = render_section(tissue, stain, mpp=MPP, rng=rng)
    write_pyramid(path, picture, mpp=MPP, software=SYNTHETIC_SOFTWARE)


def _barcodes(array: Ints) -> Strings:
    """Legacy spatial-transcriptomics names: column, "x", row."""
    return np.array([f"{column}x{row}" for row, column in array.tolist()])


def _write_counts(path: Path, counts: Counts, genes: GeneModel, array: Ints, center_px: Floats) -> None:
    """AnnData with raw counts, `obsm["spatial"]` in level-0 pixels and the place in the array."""
    import anndata
    import pandas
    from scipy.sparse import csr_matrix

    obs = pandas.DataFrame({"array_row": array[:, 0], "array_col": array[:, 1]}, index=names_index(_barcodes(array)))
    table = anndata.AnnData(
        X=csr_matrix(counts.counts.astype(np.float32)),
        obs=obs,
        var=pandas.DataFrame(index=names_index(genes.genes)),
        obsm={"spatial": np.asarray(center_px, dtype=np.float64)},
    )
    table.write_h5ad(path)
