"""Scores by gene and slide, and calibration, against scipy and hand-made numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.stats import linregress, pearsonr

from tissuary.heads.comparison.ceiling import protocol_ceilings, target_of
from tissuary.heads.comparison.comparison import Calibration
from tissuary.heads.comparison.details import (
    HeldOutPredictions,
    calibration,
    gene_maps,
    genes_without_map,
    head_detail,
    head_details,
)
from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.named import STRICT, STRICT_SLIDE
from tissuary.heads.protocols.scores.aggregate import ScoredFold
from tissuary.heads.protocols.scores.metrics import score_fold
from tissuary.store.errors import HeadError
from tissuary.store.table import Table

LINE = ("strict", "toy", "20x", "ridge")


def held_out(slides, genes, *, seed, n=25):
    """One fold: slides of n spots each, predictions that follow the truth halfway."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(2.0, 1.0, size=(n * len(slides), len(genes))).astype(np.float32)
    prediction = (0.5 * truth + rng.normal(size=truth.shape) + 1.0).astype(np.float32)
    slide = np.repeat(np.arange(len(slides), dtype=np.int32), n)
    test = Table(
        slide_ids=tuple(slides),
        patient_ids=tuple(slide_id[0] for slide_id in slides),
        slide=slide,
        row=np.arange(len(truth), dtype=np.int32),
        center_um=rng.uniform(0, 1000, size=(len(truth), 2)),
        columns={},
        barcode=np.array([str(i) for i in range(len(truth))]),
        panel=tuple(genes),
    )
    every = np.arange(len(genes))
    score = score_fold(prediction, truth, slide=slide, heg50=every, hvg50=every, center_um=test.center_um)
    return HeldOutPredictions(test, truth, prediction, ScoredFold(slides[0][0], test.patient_ids, score))


@pytest.fixture(scope="module")
def held():
    return [held_out(["A1", "A2"], ["x", "y", "z"], seed=1), held_out(["B1"], ["y", "z", "w"], seed=2)]


def test_genes_and_slides_have_the_scores_that_scipy_gives(held):
    detail = head_detail(LINE, held)

    by_slide = {}
    for one in held:
        for s, slide in enumerate(one.test.slide_ids):
            here = one.test.slide == s
            by_slide[slide] = {
                gene: pearsonr(one.prediction[here, g].astype(float), one.truth[here, g].astype(float))[0]
                for g, gene in enumerate(one.test.panel)
            }
    assert detail.genes == ("x", "y", "z", "w")
    for gene, pcc in zip(detail.genes, detail.gene_pcc, strict=True):
        assert pcc == pytest.approx(np.mean([s[gene] for s in by_slide.values() if gene in s]), abs=1e-10)
    assert detail.slides == ("A1", "A2", "B1")
    for slide, pcc in zip(detail.slides, detail.slide_pcc, strict=True):
        assert pcc == pytest.approx(np.mean(list(by_slide[slide].values())), abs=1e-10)
    assert [one.line for one in head_details({LINE: held, ("strict", "toy", "20x", "knn"): []})] == [LINE]


def test_slopes_are_those_of_a_straight_line_through_all_values(held):
    detail = head_detail(LINE, held)

    whole = [np.concatenate([getattr(one, side).ravel() for one in held]) for side in ("prediction", "truth")]
    centred = [
        np.concatenate(
            [
                (values[one.test.slide == s] - values[one.test.slide == s].mean(axis=0)).ravel()
                for one in held
                for values in (getattr(one, side).astype(float),)
                for s in range(len(one.test.slide_ids))
            ]
        )
        for side in ("prediction", "truth")
    ]
    assert detail.whole.slope == pytest.approx(linregress(*whole).slope, rel=1e-6)
    assert detail.within.slope == pytest.approx(linregress(*centred).slope, rel=1e-9)
    assert detail.whole.values.sum() == detail.within.values.sum() == 225


def test_bins_are_hand_made_means_of_as_many_values_each():
    predicted = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    measured = np.array([1.0, 3.0, 2.0, 4.0, 9.0, 11.0])

    found = calibration(lambda: [(predicted[:2], measured[:2]), (predicted[2:], measured[2:])], bins=3)

    np.testing.assert_allclose(found.predicted, [0.5, 2.5, 4.5])
    np.testing.assert_allclose(found.measured, [2.0, 3.0, 10.0])
    assert found.values.tolist() == [2, 2, 2]
    assert found.slope == pytest.approx(np.polyfit(predicted, measured, 1)[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 15))
def test_bins_keep_every_value_and_lie_in_order(seed, n, bins):
    rng = np.random.default_rng(seed)
    predicted, measured = rng.normal(size=(2, n)) * rng.lognormal(0, 3)

    found = calibration(lambda: [(predicted, measured)], bins=bins)

    assert 1 <= len(found.values) <= bins
    assert found.values.sum() == n
    assert (np.diff(found.predicted) > 0).all()
    assert found.predicted @ found.values == pytest.approx(predicted.sum(), rel=1e-9, abs=1e-9)
    assert found.measured @ found.values == pytest.approx(measured.sum(), rel=1e-9, abs=1e-9)


def test_a_constant_prediction_has_one_bin_and_no_slope():
    found = calibration(lambda: [(np.full(4, 2.0), np.array([1.0, 2.0, 3.0, 6.0]))])

    assert (found.predicted.tolist(), found.measured.tolist(), found.values.tolist()) == ([2.0], [3.0], [4])
    assert np.isnan(found.slope)
    assert len(calibration(lambda: []).values) == 0


def test_parts_that_do_not_match_are_refused():
    with pytest.raises(HeadError, match="came with 2 predicted, 1 measured means and 2 sizes"):
        Calibration(np.zeros(2), np.zeros(1), np.zeros(2, int), 1.0)


def test_a_gene_that_is_constant_everywhere_has_no_score(held):
    one = held[1]
    truth = one.truth.copy()
    truth[:, 2] = 1.0
    every = np.arange(3)
    score = score_fold(
        one.prediction, truth, slide=one.test.slide, heg50=every, hvg50=every, center_um=one.test.center_um
    )
    flat = dataclasses.replace(one, truth=truth, scored=dataclasses.replace(one.scored, score=score))

    assert np.isnan(head_detail(LINE, [flat]).gene_pcc[2])


def test_every_protocol_that_was_run_has_its_own_ceiling():
    rng = np.random.default_rng(9)
    share = np.exp(0.6 * rng.normal(size=(100, 4)))
    array = np.stack(np.divmod(np.tile(np.arange(50), 2), 10), axis=1)
    matrix = csr_matrix(rng.poisson(30 * share).astype(float))
    slide = np.repeat([0, 1], 50)
    depth = np.asarray(matrix.sum(axis=1)).ravel()
    counts = SpotCounts(matrix, np.array(list("wxyz")), depth, slide, array * 200.0, array)
    smooth = dataclasses.replace(STRICT, name="smooth", smoothing="all")
    lines = {
        (name, "toy", "20x", "ridge"): [held_out(["A1"], "wxy", seed=1), held_out(["B1"], "xyz", seed=2)]
        for name in ("strict", "smooth")
    }

    found = protocol_ceilings((STRICT, smooth, STRICT_SLIDE), counts, lines)

    # By hand, the mean over each spot's neighbours of the array that are on the same slide.
    values = np.log1p(1e4 * matrix.toarray() / depth[:, None])
    near = (np.abs(array[:, None] - array).max(axis=2) <= 1) & (slide[:, None] == slide)
    np.testing.assert_allclose(target_of(smooth)(counts, np.arange(4)), near @ values / near.sum(axis=1)[:, None])
    assert [(one.protocol, one.genes) for one in found] == [("strict", tuple("wxyz")), ("smooth", tuple("wxyz"))]
    assert all(0.3 < one.counting_mean < 1.0 for one in found)
    assert found[0].counting_mean != found[1].counting_mean


def test_genes_asked_for_are_shown_where_they_were_predicted_and_others_named(held, make_store):
    store = make_store({"A1": ("A", 25), "A2": ("A", 25), "B1": ("B", 25)})
    record = dict(zip(("protocol", "backbone", "views", "head"), LINE, strict=True), mode="default", control=False)
    records = [{**record, "fold": "all", "pcc_slide_mean": 0.2, "pcc_pooled": 0.9}]
    records += [{**records[0], "head": "knn", "pcc_slide_mean": 0.3, "pcc_pooled": 0.1}]

    maps = gene_maps(store, records, {LINE: held}, genes=("w", "nosuch", "w", "x"), score="pcc_pooled")

    assert [one.role for one in maps] == ["best gene", "median gene", "chosen gene", "chosen gene"]
    assert [(one.gene, one.slide_id, one.head) for one in maps[2:]] == [
        ("w", "B1", "ridge"),
        ("x", maps[3].slide_id, "ridge"),
    ]
    assert maps[3].slide_id in ("A1", "A2")
    np.testing.assert_array_equal(maps[2].measured, held[1].truth[:, 2])
    assert maps[2].pcc == pytest.approx(pearsonr(maps[2].predicted, maps[2].measured)[0], abs=1e-6)
    assert genes_without_map(("w", "nosuch", "x"), maps) == (
        "no map of gene nosuch: it is in no fold's panel, or measured the same everywhere",
    )
