"""A prediction as AnnData: `<slide>.h5ad`, as scanpy and squidpy read it, written row by row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Pixels
from ...store.errors import MissingDependencyError, StoreError
from ...store.files.atomic import atomic_path
from ...store.files.expression import names_index, read_text
from ...store.files.patches import Patches
from ...store.files.schema import DAMAGE, expression_path, slide_path
from ...store.files.slide import SlideRecord, coordinate_frame, read_thumbnail, scanned_bounds
from ...store.naming import SPOTS
from ...store.store import Store
from ..protocols.targets import get_target_rule
from .familiarity import FLAGGED, NEAREST
from .run import TrainedRun
from .training_overlap import TrainingOverlap, training_overlap

_STRIDE = re.compile(r"grid-(?P<stride>\d+(?:\.\d+)?)um")

SPOT_SHARE = 0.5
"""Diameter of a spot over the distance to the next: 55 of 100 um (Visium), 100 of 200 um (legacy ST)."""

CORNERS = 16
"""Of the polygon that a circle is drawn as."""


@dataclass(frozen=True)
class SpotShape:
    """Shape of every spot or tile of a patch set.

    Attributes
    ----------
    kind
        "square" or "circle".
    side_um
        Side, or diameter.
    """

    kind: str
    side_um: float

    def outline(self) -> NDArray[np.float64]:
        """Corners (c, 2) around the centre in um, clockwise on the screen, the first one again at the end."""
        if self.kind == "square":
            return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * self.side_um / 2
        turn = 2 * np.pi * np.arange(CORNERS + 1) / CORNERS
        outline = np.stack([np.cos(turn), np.sin(turn)], axis=1) * self.side_um / 2
        outline[-1] = outline[0]
        return outline


def shape_of(patches: str, center_um: Floats, *, fov_um: float) -> SpotShape:
    """Shape of the patches of a slide.

    Parameters
    ----------
    patches
        Name of the patch set; grids carry their stride in it, so that overlapping tiles are drawn side by side.
    center_um
        (n, 2) positions.
    fov_um
        Side of the field that features saw: that of a lone spot.

    Examples
    --------
    >>> shape_of("grid-56um-tile112um", np.zeros((1, 2)), fov_um=112.0)
    Shape(kind='square', side_um=56.0)
    """
    match = _STRIDE.match(patches)
    if match:
        return SpotShape("square", float(match["stride"]))
    apart = _spacing_um(center_um) or fov_um
    return SpotShape("circle", apart * SPOT_SHARE) if patches == SPOTS else SpotShape("square", apart)


def _spacing_um(center_um: Floats) -> float:
    """Median distance to the nearest other patch; 0 where there is none."""
    from scipy.spatial import cKDTree

    if len(center_um) < 2:
        return 0.0
    return float(np.median(cKDTree(center_um).query(center_um, k=2)[0][:, 1]))


PREDICTION_TYPE, PREDICTION_VERSION = "tissuary-prediction", "1"
STEP = 4096


@dataclass(frozen=True)
class PredictionFacts:
    """All that is said of a prediction beside its numbers.

    Attributes
    ----------
    genes
        (g,) names of the columns.
    shape
        Of a spot or tile, for drawing.
    run
        What made it: id, head, mode, protocol, target.
    unit
        Of the predicted values, for people.
    smoothing
        Of the training targets: "none", or "all" where they are means of 3 x 3 spots.
    overlap
        What the slide shares with the slides that trained the run.
    fingerprints
        Of the features, by key.
    apart
        What training rows that are compared are apart by; see `Familiarity`.
    flagged_from
        Distance above which rows are flagged; NaN where none is.
    has_counts
        Whether the store has counts of the slide.
    bounds_px
        x, y, width and height of the part of level 0 that the scanner filled; None where it is not known.
    thumbnail
        (h, w, 3), where the store has one.
    """

    slide: SlideRecord
    patch_set: str
    patches: Patches
    genes: tuple[str, ...]
    shape: SpotShape
    run: dict[str, Any]
    unit: str
    smoothing: str
    overlap: TrainingOverlap
    fingerprints: dict[str, str]
    apart: str
    flagged_from: float
    has_counts: bool
    bounds_px: tuple[int, int, int, int] | None
    thumbnail: Pixels | None


def prediction_facts(run: TrainedRun, store: Store, slide_id: str, *, patches: str, fov_um: float) -> PredictionFacts:
    """Collect them from a run and a store."""
    record, slide, place = run.saved.record, store.slide(slide_id), store.patches(slide_id, patches=patches)
    try:
        thumbnail = read_thumbnail(slide_path(store.path, slide_id))
    except StoreError:  # imported without its image
        thumbnail = None
    words = {
        "id": run.id,
        "head": record["head"],
        "mode": record["mode"],
        "options": json.dumps(record["options"], sort_keys=True),
        "protocol": record["protocol"]["name"],
        "target": record["target"]["rule"],
        "slide_offset": run.saved.offset.rule,
        "training_slides": np.array((record.get("training") or {}).get("slides", []), dtype=object),
        "licences": json.dumps(record["licences"], sort_keys=True),
    }
    smoothing = record["target"].get("smoothing", "none")
    return PredictionFacts(
        slide=slide,
        patch_set=patches,
        patches=place,
        genes=run.saved.panel,
        shape=shape_of(patches, place.center_px * slide.mpp, fov_um=fov_um),
        run=words,
        unit=get_target_rule(words["target"]).unit + (", mean of 3 x 3 spots" if smoothing == "all" else ""),
        smoothing=smoothing,
        overlap=training_overlap(record, slide),
        fingerprints=dict(zip(run.familiarity.keys, run.familiarity.fingerprints, strict=True)),
        apart=run.familiarity.apart,
        flagged_from=run.familiarity.flagged_from,
        bounds_px=scanned_bounds(slide),
        has_counts=expression_path(store.path, slide_id).is_file(),
        thumbnail=thumbnail,
    )


def write_prediction(
    path: Path,
    facts: PredictionFacts,
    read: Callable[[int, int], NDArray[np.float32]],
    *,
    unfamiliar: Callable[[Floats], NDArray[np.float32]],
    identity: dict[str, Any],
    how: dict[str, Any],
) -> None:
    """Write AnnData without holding its values.

    `X` has the predicted genes (n, g), `obsm["spatial"]` level-0 pixels, `obs` `distance`, `unfamiliar` and `flagged`,
    `uns["tissuary"]` scale, run and fingerprints, `uns["spatial"]` thumbnail and scale factors as scanpy has them.

    Parameters
    ----------
    read
        Values (stop - start, g + 1) of rows from `start` to `stop`: genes, then the distance.
    unfamiliar
        From distances to the share of training rows that lie nearer.
    identity, how
        What the values depend on, and with what they were computed (`made_how`).
    """
    try:
        import h5py
    except ImportError as error:
        msg = 'AnnData is written with h5py: pip install "h5py>=3.12"'
        raise MissingDependencyError(msg) from error
    n, width = len(facts.patches), len(facts.genes)
    steps = [(start, min(start + STEP, n)) for start in range(0, n, STEP)]
    distance = np.concatenate([np.empty(0, np.float32), *(read(*step)[:, width] for step in steps)])
    adata = _without_values(facts, distance, unfamiliar(distance), _words(facts, identity, how))
    with atomic_path(path, once=True) as temporary:
        adata.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            file.pop("X", None)
            values = file.create_dataset("X", shape=(n, width), dtype="<f4", track_times=False)
            values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for start, stop in steps:
                values[start:stop] = read(start, stop)[:, :width]


def _without_values(
    facts: PredictionFacts, distance: Floats, unfamiliar: NDArray[np.float32], words: dict[str, Any]
) -> Any:
    try:
        import anndata
        import pandas
    except ImportError as error:
        msg = 'AnnData is written with anndata: pip install "anndata>=0.12"'
        raise MissingDependencyError(msg) from error
    rows = pandas.DataFrame(index=names_index(facts.patches.barcode, "barcode"))
    if facts.patches.array is not None:
        rows["array_row"], rows["array_col"] = facts.patches.array[:, 0], facts.patches.array[:, 1]
    rows["distance"], rows["unfamiliar"], rows["flagged"] = distance, unfamiliar, unfamiliar > FLAGGED
    return anndata.AnnData(
        obs=rows,
        var=pandas.DataFrame(index=names_index(facts.genes, "gene")),
        obsm={"spatial": np.asarray(facts.patches.center_px, dtype=np.float64)},
        uns={"tissuary": words, "spatial": {facts.slide.slide_id: _scanpy(facts)}},
    )


def _words(facts: PredictionFacts, identity: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    slide = facts.slide
    return {
        "encoding-type": PREDICTION_TYPE,
        "encoding-version": PREDICTION_VERSION,
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "width": slide.width_px,
        "height": slide.height_px,
        "patches": facts.patch_set,
        "shape": facts.shape.kind,
        "side_um": facts.shape.side_um,
        "run": facts.run,
        "fingerprints": facts.fingerprints,
        "unit": facts.unit,
        "coordinates": coordinate_frame(facts.bounds_px),
        "training_overlap": facts.overlap.entries(),
        "distance": {
            "nearest": NEAREST,
            "apart": facts.apart,
            "flagged_above": FLAGGED,
            "flagged_above_distance": facts.flagged_from,
        },
        "computed": how,
        "identity": json.dumps(identity, sort_keys=True),
    }


def _scanpy(facts: PredictionFacts) -> dict[str, Any]:
    """Pictures and scale factors as `scanpy.pl.spatial` and squidpy look for them."""
    factors = {"spot_diameter_fullres": facts.shape.side_um / facts.slide.mpp}
    if facts.thumbnail is None:
        return {"images": {}, "scalefactors": factors}
    factors["tissue_hires_scalef"] = facts.thumbnail.shape[1] / facts.slide.width_px
    return {"images": {"hires": facts.thumbnail}, "scalefactors": factors}


def read_identity(path: Path) -> dict[str, Any]:
    """What a prediction was made of; empty for a file that does not say.

    Raises
    ------
    StoreError
        If it is no HDF5 file.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            place = "uns/tissuary/identity"
            words = json.loads(read_text(file, place)) if place in file else {}
    except DAMAGE as error:
        msg = f"{path} is there already and cannot be read ({error}): delete it to have it predicted again"
        raise StoreError(msg) from error
    return words if isinstance(words, dict) else {}
