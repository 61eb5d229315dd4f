"""What pictures and QuPath are given: places, some genes as predicted and as measured, how far the spots lie."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import HeadError, StoreError
from ...store.files.atomic import disk_errors
from ...store.files.expression import Expression, read_expression
from ...store.files.patches import Patches
from ...store.files.schema import DAMAGE, expression_path
from ...store.naming import SPOTS
from ...store.store import Store
from ..protocols.counts import SpotCounts
from ..protocols.targets import get_target_rule, seen_in_panel, smooth_3x3
from .file import STEP, PredictionFacts, SpotShape, shape_of


@dataclass(frozen=True)
class SlideMap:
    """Some genes of one prediction.

    Attributes
    ----------
    facts
        What is known of slide, patches and run beside the numbers.
    identity
        What the values depend on, as JSON.
    values
        (n,) by gene, in the units of the target.
    distance, unfamiliar, flagged
        (n,) of each row; see `Familiarity`.
    overlap_kept
        What the file says of training, as `TrainingOverlap.words`; empty where it is older than that.
    """

    facts: PredictionFacts
    identity: str
    values: dict[str, NDArray[np.float32]]
    distance: NDArray[np.float32]
    unfamiliar: NDArray[np.float32]
    flagged: Bools
    overlap_kept: str

    @property
    def center_um(self) -> Floats:
        """(n, 2) positions."""
        return np.asarray(self.facts.patches.center_px * self.facts.slide.mpp)


@dataclass(frozen=True)
class MeasuredGenes:
    """What was measured of a slide, on the scale that its prediction has.

    Attributes
    ----------
    center_um
        (n, 2) of the spots, which need not be the patches that are predicted.
    shape
        Of a spot.
    values
        (n,) by gene; NaN for a spot without counts.
    lacking
        Why a gene that was asked for is not among them, by gene.
    """

    center_um: Floats
    shape: SpotShape
    values: dict[str, NDArray[np.float32]]
    lacking: dict[str, str]


def read_slide_map(
    path: Path, genes: Sequence[str], *, facts: PredictionFacts, identity: Mapping[str, Any]
) -> SlideMap:
    """Read some genes of a prediction that was made of `identity`.

    Raises
    ------
    HeadError
        If a gene was not predicted.
    StoreError
        If the file is damaged.
    """
    import h5py

    missing = [gene for gene in genes if gene not in facts.genes]
    if missing:
        some = ", ".join(facts.genes[:5])
        msg = f"{path} has no genes {', '.join(missing)}; it has {len(facts.genes)}, such as {some}"
        raise HeadError(msg)
    columns = [facts.genes.index(gene) for gene in genes]
    try:
        with h5py.File(path, "r") as file:
            picked = [np.empty((0, len(columns)), np.float32)]
            stored = file["X"]
            picked += [stored[start : start + STEP][:, columns] for start in range(0, len(stored), STEP)]
            words = file.get("uns/tissuary/training_overlap/words")
            kept = "" if words is None else str(words.asstr()[()])
            distance, unfamiliar, flagged = (file[f"obs/{name}"][()] for name in ("distance", "unfamiliar", "flagged"))
    except DAMAGE as error:
        msg = f"{path} cannot be read ({error}): delete it and predict the slide again"
        raise StoreError(msg) from error
    return SlideMap(
        facts=facts,
        identity=json.dumps(dict(identity), sort_keys=True),
        values=dict(zip(genes, np.concatenate(picked).T, strict=True)),
        distance=distance,
        unfamiliar=unfamiliar,
        flagged=flagged.astype(np.bool_),
        overlap_kept=kept,
    )


def read_measured(store: Store, facts: PredictionFacts, genes: Sequence[str]) -> MeasuredGenes:
    """Measured values of some genes of the run, transformed as its training targets were.

    Totals over the panel are taken over all genes of the run: a slide that lacks one of these has no such totals.

    Raises
    ------
    StoreError
        If the slide's counts are damaged, or are not of its spots.
    CohortError
        If they are no counts.
    ProtocolError
        If targets of the run are smoothed over an array that the slide lacks.
    """
    slide_id = facts.slide.slide_id
    counts, spots = read_expression(expression_path(store.path, slide_id)), store.patches(slide_id)
    if not np.array_equal(counts.barcode, spots.barcode):
        msg = f"slide {slide_id}: rows of the counts are not the spots of the patch file; featurize it again"
        raise StoreError(msg)
    center_um = np.asarray(spots.center_px * facts.slide.mpp)
    shape = facts.shape if facts.patch_set == SPOTS else shape_of(SPOTS, center_um, fov_um=facts.shape.side_um)
    panel, shown, lacking = _positions(counts, facts, genes)
    values = _target(counts, spots, facts, panel) if shown else np.empty((len(spots), 0))
    picked = values[:, [int(np.flatnonzero(panel == position)[0]) for position in shown.values()]]
    return MeasuredGenes(center_um, shape, dict(zip(shown, picked.astype(np.float32).T, strict=True)), lacking)


def _positions(
    counts: Expression, facts: PredictionFacts, genes: Sequence[str]
) -> tuple[Ints, dict[str, int], dict[str, str]]:
    """Positions of the genes to transform together, of those to show, and why others cannot be shown."""
    column = {str(gene): position for position, gene in enumerate(counts.genes)}
    lacking = {gene: "not measured on this slide" for gene in genes if gene not in column}
    absent = sum(gene not in column for gene in facts.genes)
    if not get_target_rule(facts.run["target"]).over_panel:
        shown = {gene: column[gene] for gene in genes if gene in column}
        return np.array(list(shown.values()), dtype=np.int64), shown, lacking
    if absent:
        why = f"no total over the panel: {absent} of its genes are not measured on this slide"
        return np.array([], dtype=np.int64), {}, dict.fromkeys(genes, why)
    return np.array([column[gene] for gene in facts.genes]), {gene: column[gene] for gene in genes}, lacking


def _target(counts: Expression, spots: Patches, facts: PredictionFacts, panel: Ints) -> Floats:
    """Targets (n, n_panel); NaN for spots of which nothing was seen."""
    slide = np.zeros(len(spots), dtype=np.int32)
    depth = np.asarray(counts.counts.sum(axis=1, dtype=np.float64)).ravel()
    found = SpotCounts(counts.counts, counts.genes, depth, slide, spots.center_px * facts.slide.mpp, spots.array)
    rule = get_target_rule(facts.run["target"])
    values = rule.function(found, panel)
    if facts.smoothing == "all":
        values = smooth_3x3(values, spots.array, slide)
    seen = seen_in_panel(found, panel) if rule.leaves_out_unseen else depth > 0
    return np.asarray(np.where(seen[:, None], values, np.nan))


log = logging.getLogger(__name__)

RUN, PREDICTION, SHOWN = "tissuary-run", "tissuary-prediction", "tissuary-shown"
"""Names of the entries: id of the run, digest of all that the prediction depends on, and of how it is shown."""

STYLE = 2
"""Raised where pictures or GeoJSON of the same prediction change, so that older ones are written anew."""

PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 4096
"""A mark lies in the first line of a GeoJSON, and in chunks no longer than this."""

Mark = dict[str, str]


def mark_of(slide: SlideMap, *shown: str) -> Mark:
    """What is written into all that shows a prediction.

    Parameters
    ----------
    shown
        All that a picture or GeoJSON says beside the prediction itself.
    """
    digests = (hashlib.sha256(words.encode()).hexdigest() for words in (slide.identity, json.dumps([STYLE, *shown])))
    return dict(zip((RUN, PREDICTION, SHOWN), (slide.facts.run["id"], *digests), strict=True))


def read_mark(path: Path) -> Mark:
    """The mark of a `.png` or `.geojson`; empty where there is no file, or none of tissuary's."""
    try:
        with path.open("rb") as file:
            if file.read(len(PNG)) == PNG:
                return _of_chunks(file.read(MOST_BYTES))
            file.seek(0)
            line = file.readline(MOST_BYTES).decode(errors="replace")
    except OSError:
        return {}
    try:
        words = json.loads(line.rstrip() + "]}")  # as write_qupath begins it: the features open on its end
    except ValueError:
        return {}
    words = words if isinstance(words, dict) else {}
    return {name: str(words[name]) for name in (RUN, PREDICTION, SHOWN) if name in words}


def remove_shown(folder: Path, slide_id: str) -> None:
    """Remove what was drawn of an earlier prediction of a slide.

    Files without a mark stay: a picture of the slide, or annotations that somebody drew, may have such a name too.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    # Without a dot in what stands for the gene: A.left.FN1.png is of the slide A.left, not of A.
    ours = re.compile(re.escape(slide_id) + r"(\.[A-Za-z0-9_+-]+\.png|\.geojson)")
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if ours.fullmatch(path.name) and read_mark(path):
                log.info("removing %s, which shows an earlier prediction", path)
                path.unlink()


def _of_chunks(content: bytes) -> Mark:
    """Marks among the first chunks of a PNG: length, kind, content, checksum (PNG specification, 5.3, 11.3.3.2)."""
    found, start = {}, 0
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        if kind == b"IDAT":
            break
        name, _, text = content[start + 8 : start + 8 + length].partition(b"\0")
        if kind == b"tEXt" and name.decode("latin-1") in (RUN, PREDICTION, SHOWN):
            found[name.decode("latin-1")] = text.decode("latin-1")
        start += length + 12
    return found
