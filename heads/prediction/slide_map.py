"""What pictures and QuPath are given: places, some genes as predicted and as measured, how far the spots lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import HeadError, StoreError
from ...store.expression import Expression, read_expression
from ...store.naming import SPOTS
from ...store.patch_file import Patches
from ...store.schema import DAMAGE, expression_path
from ...store.store import Store
from ..evaluation.counts import SpotCounts
from ..evaluation.smoothing import smooth_3x3
from ..evaluation.target_rules import get_target_rule, seen_in_panel
from .prediction_file import STEP, PredictionFacts
from .shapes import Shape, shape_of


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
class Measured:
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
    shape: Shape
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


def read_measured(store: Store, facts: PredictionFacts, genes: Sequence[str]) -> Measured:
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
    return Measured(center_um, shape, dict(zip(shown, picked.astype(np.float32).T, strict=True)), lacking)


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
