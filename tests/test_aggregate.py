import numpy as np
import pytest
from scipy import stats

from tissuary.heads.protocols.scores.aggregate import ScoredFold, aggregate, per_patient
from tissuary.heads.protocols.scores.metrics import score_fold
from tissuary.heads.protocols.scores.scores import SCORE_RULES
from tissuary.store.errors import ProtocolError

HEG, HVG = np.array([0]), np.array([1])


def fold(name, patients, seed, *, spots=12):
    """A fold with one test slide per patient given."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(len(patients)), spots)
    truth = rng.normal(size=(len(slide), 3)) + slide[:, None]
    prediction = truth + rng.normal(size=truth.shape)
    return ScoredFold(name, tuple(patients), score_fold(prediction, truth, slide=slide, heg50=HEG, hvg50=HVG))


def one_spot_fold(name, patient):
    score = score_fold(np.ones((1, 3)), np.zeros((1, 3)), slide=np.array([0]), heg50=HEG, hvg50=HVG)
    return ScoredFold(name, (patient,), score)


def test_folds_weigh_by_test_slides_and_pooled_scores_do_not():
    folds = [fold("A", ["A"], 0), fold("B", ["B", "B", "B"], 1)]
    whole = aggregate(folds)
    first, second = (one.score for one in folds)
    for name in ("pcc_slide_mean", "pcc_slide_median", "pcc_heg50", "pcc_hvg50", "mse", "mae"):
        expected = (getattr(first, name) + 3 * getattr(second, name)) / 4
        assert getattr(whole, name) == pytest.approx(expected, abs=1e-12), name
    assert whole.pcc_pooled == pytest.approx((first.pcc_pooled + second.pcc_pooled) / 2, abs=1e-12)
    assert whole.n_slides == 4
    assert (whole.nan_genes, whole.nan_slides, whole.constant) == (0, 0, False)
    assert whole.per_patient == pytest.approx({"A": first.pcc_slide_mean, "B": second.pcc_slide_mean})
    assert whole.intervals == {}


def test_one_fold_is_its_own_aggregate():
    only = fold("A", ["A", "A"], 3)
    whole = aggregate([only])
    assert whole.pcc_slide_mean == pytest.approx(only.score.pcc_slide_mean, abs=1e-15)
    assert whole.mse == pytest.approx(only.score.mse, abs=1e-15)


def test_patients_are_gathered_over_the_folds_of_strict_slide():
    folds = [fold("C2", ["C"], 0), fold("C3", ["C"], 1), fold("B4", ["B"], 2)]
    scores = [one.score.pcc_slide_mean for one in folds]
    expected = {"C": (scores[0] + scores[1]) / 2, "B": scores[2]}
    assert aggregate(folds).per_patient == pytest.approx(expected)
    assert list(aggregate(folds).per_patient) == ["C", "B"]


def test_a_slide_without_score_is_counted_and_weighs_nothing_but_its_errors():
    scored = fold("A", ["A"], 0)
    whole = aggregate([scored, one_spot_fold("B", "B")])
    assert whole.pcc_slide_mean == pytest.approx(scored.score.pcc_slide_mean, abs=1e-15)
    assert (whole.nan_slides, whole.nan_genes, whole.n_slides) == (1, 3, 2)
    assert np.isnan(whole.per_patient["B"])
    assert whole.mse == pytest.approx((scored.score.mse + 1) / 2, abs=1e-12)
    assert np.isnan(aggregate([one_spot_fold("B", "B")]).pcc_slide_mean)


def test_a_constant_fold_flags_the_whole():
    truth = np.array([[0.0, 0, 0], [1, 2, 3]])
    score = score_fold(np.ones((2, 3)), truth, slide=np.zeros(2, int), heg50=HEG, hvg50=HVG)
    assert aggregate([fold("A", ["A"], 0), ScoredFold("B", ("B",), score)]).constant


def test_scores_per_patient_by_hand():
    assert per_patient(np.array([0.2, 0.6, 0.4, np.nan]), ["A", "B", "A", "B"]) == pytest.approx({"A": 0.3, "B": 0.6})


def test_folds_must_be_there_and_name_their_patients():
    with pytest.raises(ProtocolError, match="no fold to aggregate"):
        aggregate([])
    with pytest.raises(ProtocolError, match="'A' names 1 patients for 2 test slides"):
        aggregate([ScoredFold("A", ("A",), fold("A", ["A", "A"], 0).score)])


def uneven_folds():
    """Six patients in three folds, slides of unlike size, one of a single spot."""
    rng = np.random.default_rng(8)
    folds = []
    for name, patients, sizes in (("x", "AAB", (9, 14, 8)), ("y", "CD", (20, 1)), ("z", "EFF", (10, 8, 9))):
        slide = np.repeat(np.arange(len(sizes)), sizes)
        truth = rng.normal(size=(len(slide), 6)) + slide[:, None]
        prediction, center_um = truth + rng.normal(size=truth.shape), rng.uniform(0, 100, (len(slide), 2))
        score = score_fold(prediction, truth, slide=slide, heg50=HEG, hvg50=HVG, center_um=center_um)
        folds.append(ScoredFold(name, tuple(patients), score))
    return folds


def test_every_score_weighs_folds_by_test_slides_or_not_at_all():
    folds = uneven_folds()
    whole = aggregate(folds)
    assert list(whole.scores) == list(SCORE_RULES)
    for name, rule in SCORE_RULES.items():
        of_folds = np.array([one.score.scores[name] for one in folds])
        slides = [len(one.score.slides) - one.score.undefined.get(name, 0) for one in folds]
        expected = of_folds.mean() if rule.over == "genes" else np.average(of_folds, weights=slides)
        assert getattr(whole, name) == pytest.approx(expected, abs=1e-12), name
    assert whole.undefined["gene_correlation"] == whole.undefined["morans_i_mae"] == whole.nan_slides == 1
    assert whole.undefined["mse"] == 0


def test_every_mean_over_slides_has_its_interval():
    folds = uneven_folds()
    whole = aggregate(folds)
    assert set(whole.intervals) == {name for name, rule in SCORE_RULES.items() if rule.over != "genes"}
    for name, one in whole.intervals.items():
        assert one.low < whole.scores[name] < one.high, name
        assert (one.low + one.high) / 2 == pytest.approx(whole.scores[name], abs=1e-12), name  # t is symmetric
        # The only slide of patient D has one spot.
        assert (one.n_patients, one.method) == (5 if whole.undefined[name] else 6, "t"), name
    assert aggregate(folds[:2]).intervals == {}


def test_scores_over_genes_of_a_fold_have_an_interval_where_each_fold_tests_one_patient():
    folds = [fold(name, [name, name], seed) for seed, name in enumerate("ABCDEF")]
    pooled = [one.score.pcc_pooled for one in folds]
    expected = stats.ttest_1samp(pooled, 0).confidence_interval()
    found = aggregate(folds).intervals["pcc_pooled"]
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=0, atol=1e-12)


def test_folds_and_spots_without_a_defined_gene_are_counted():
    whole = aggregate([fold("A", ["A"], 0), one_spot_fold("B", "B")])
    assert (whole.nan_folds, whole.nan_pooled_genes, whole.nan_spots) == (1, 3, 1)
    assert whole.r2 == pytest.approx(fold("A", ["A"], 0).score.r2, abs=1e-15)
    assert whole.pcc_spot == pytest.approx(fold("A", ["A"], 0).score.pcc_spot, abs=1e-15)
