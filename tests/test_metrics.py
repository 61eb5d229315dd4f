import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from tissuary.heads.protocols.scores.metrics import pearson_columns, score_fold, score_slide
from tissuary.store.errors import HeadError, ProtocolError

EXACT = {"rtol": 0, "atol": 1e-10}
NONE = np.array([], dtype=int)


def score(prediction, truth, slide, heg50=(0,), hvg50=(0,)):
    prediction, truth = np.asarray(prediction, dtype=float), np.asarray(truth, dtype=float)
    return score_fold(prediction, truth, slide=np.asarray(slide), heg50=np.array(heg50), hvg50=np.array(hvg50))


def random_fold(seed, n=90, g=7):
    """Predictions that follow the truth more or less, on three slides of unlike level, in mixed row order."""
    rng = np.random.default_rng(seed)
    slide = rng.permutation(np.repeat([4, 0, 2], [n // 2, n // 3, n - n // 2 - n // 3]))
    truth = rng.normal(3, 1, (n, g)) + slide[:, None]
    return truth * rng.uniform(-1, 1, g) + rng.normal(0, 1, (n, g)), truth, slide


def test_pearson_is_scipys():
    prediction, truth, _ = random_fold(0)
    expected = [pearsonr(prediction[:, g], truth[:, g])[0] for g in range(truth.shape[1])]
    np.testing.assert_allclose(pearson_columns(prediction, truth), expected, **EXACT)


def test_pearson_is_scipys_across_blocks_and_far_from_zero(monkeypatch):
    import tissuary.heads.protocols.scores.moments as moments

    monkeypatch.setattr(moments, "BLOCK_ELEMENTS", 70)
    prediction, truth, _ = random_fold(1)
    truth += 1e4
    expected = [pearsonr(prediction[:, g], truth[:, g])[0] for g in range(truth.shape[1])]
    np.testing.assert_allclose(pearson_columns(prediction, truth), expected, **EXACT)


def test_pearson_by_hand():
    # deviations (-1, 0, 1) against (-1, 1, 0): 1 / 2
    assert pearson_columns(np.array([[1.0], [2], [3]]), np.array([[1.0], [3], [2]])) == pytest.approx(0.5, abs=1e-15)


def test_columns_without_variance_or_with_nan_are_undefined():
    moving, still = np.array([0.0, 1, 2]), np.array([0.1, 0.1, 0.1])
    prediction = np.column_stack([moving, still, moving, moving])
    truth = np.column_stack([moving, moving, still, [0, np.nan, 1]])
    np.testing.assert_allclose(pearson_columns(prediction, truth), [1, np.nan, np.nan, np.nan], **EXACT)
    assert np.isnan(pearson_columns(np.ones((1, 2)), np.ones((1, 2)))).all()
    assert np.isnan(pearson_columns(np.ones((0, 2)), np.ones((0, 2)))).all()


@pytest.mark.parametrize("size", [1e-6, 0.1, 3.7, 1e6])
def test_a_constant_rounded_to_float32_is_constant(size):
    rng = np.random.default_rng(0)
    rounding = 1 + rng.integers(-4, 5, (500, 3)) * np.finfo(np.float32).eps
    prediction = (size * rounding).astype(np.float32)
    assert np.ptp(prediction) > 0
    scored = score_slide(prediction, rng.normal(size=(500, 3)))
    assert scored.pearson.tolist() == [0, 0, 0]
    assert scored.constant.all()


def test_one_spot_that_expresses_a_gene_is_variance():
    truth = np.zeros((20_000, 1))
    truth[17] = 0.3
    assert pearson_columns(truth * 1e-4 + 0, truth) == pytest.approx(1, abs=1e-10)


def test_a_fold_by_hand():
    # Slide 0: genes 1, -1, 0.5. Slide 1: gene 0 is 1, gene 1 is predicted constant, gene 2 is truly constant.
    prediction = [[1, 3, 1], [2, 2, 2], [3, 1, 3], [0, 5, 0], [2, 5, 1]]
    truth = [[2, 1, 1], [4, 2, 3], [6, 3, 2], [1, 0, 4], [2, 4, 4]]
    fold = score(prediction, truth, [0, 0, 0, 1, 1], heg50=(0, 1), hvg50=(2,))
    np.testing.assert_allclose(fold.pearson, [[1, -1, 0.5], [1, 0, np.nan]], **EXACT)
    np.testing.assert_allclose(fold.slide_mean, [0.5 / 3, 0.5], **EXACT)
    assert fold.slides.tolist() == [0, 1]
    assert fold.constant_genes.tolist() == [[False, False, False], [False, True, False]]
    assert fold.pcc_slide_mean == pytest.approx((0.5 / 3 + 0.5) / 2, abs=1e-12)
    assert fold.pcc_slide_median == pytest.approx((0.5 + 0.5) / 2, abs=1e-12)
    assert fold.pcc_heg50 == pytest.approx((0 + 0.5) / 2, abs=1e-12)
    assert fold.pcc_hvg50 == pytest.approx(0.5, abs=1e-12)  # slide 1 has none of these genes
    # errors: 1 2 0 / 2 0 1 / 3 2 1 / 1 5 4 / 0 1 3
    assert fold.mse == pytest.approx((5 + 5 + 14 + 42 + 10) / 15, abs=1e-12)
    assert fold.mae == pytest.approx((3 + 3 + 6 + 10 + 4) / 15, abs=1e-12)
    assert (fold.nan_genes, fold.nan_slides, fold.constant) == (1, 0, True)


def test_a_fold_is_scipys_per_slide_and_pooled():
    prediction, truth, slide = random_fold(2)
    heg, hvg = np.array([0, 1, 2]), np.array([6, 3])
    fold = score_fold(prediction, truth, slide=slide, heg50=heg, hvg50=hvg)
    per_slide = np.array(
        [[pearsonr(prediction[slide == s, g], truth[slide == s, g])[0] for g in range(7)] for s in (0, 2, 4)]
    )
    pooled = [pearsonr(prediction[:, g], truth[:, g])[0] for g in range(7)]
    np.testing.assert_allclose(fold.pearson, per_slide, **EXACT)
    np.testing.assert_allclose(fold.pooled, pooled, **EXACT)
    assert fold.pcc_slide_mean == pytest.approx(per_slide.mean(), abs=1e-10)
    assert fold.pcc_slide_median == pytest.approx(np.median(per_slide, axis=1).mean(), abs=1e-10)
    assert fold.pcc_pooled == pytest.approx(np.mean(pooled), abs=1e-10)
    assert fold.pcc_heg50 == pytest.approx(per_slide[:, heg].mean(), abs=1e-10)
    assert fold.pcc_hvg50 == pytest.approx(per_slide[:, hvg].mean(), abs=1e-10)
    assert fold.mse == pytest.approx(((prediction - truth) ** 2).mean(), abs=1e-10)
    assert fold.mae == pytest.approx(np.abs(prediction - truth).mean(), abs=1e-10)
    assert not fold.constant


def test_a_slides_level_scores_pooled_and_not_within_slides():
    _, truth, slide = random_fold(3)
    fold = score(np.repeat(slide[:, None], 7, axis=1), truth, slide)
    assert fold.pcc_slide_mean == 0
    assert fold.constant
    assert fold.pcc_pooled > 0.5


def test_a_truth_that_is_constant_is_left_out_whatever_is_predicted():
    truth = np.column_stack([[0.0, 1, 2], [0, 0, 0]])
    still = score(np.zeros((3, 2)), truth, [0, 0, 0])
    moving = score([[0, 1], [1, 5], [2, 2]], truth, [0, 0, 0])
    assert still.nan_genes == moving.nan_genes == 1
    assert still.pcc_slide_mean == 0
    assert moving.pcc_slide_mean == pytest.approx(1, abs=1e-12)
    assert still.constant_genes.tolist() == [[True, False]]


def test_a_slide_without_a_defined_gene_is_nan_and_counted():
    truth = [[0, 1], [1, 0], [2, 2], [7, 7]]
    fold = score(truth, truth, [0, 0, 0, 1])
    np.testing.assert_array_equal(np.isnan(fold.slide_mean), [False, True])
    assert (fold.nan_slides, fold.nan_genes, fold.constant) == (1, 2, False)
    assert fold.pcc_slide_mean == pytest.approx(1, abs=1e-12)
    alone = score([[1, 2]], [[7, 7]], [0])
    assert all(np.isnan([alone.pcc_slide_mean, alone.pcc_slide_median, alone.pcc_pooled, alone.pcc_heg50]))
    assert alone.nan_slides == 1
    assert alone.mse == pytest.approx((36 + 25) / 2)


def test_an_empty_gene_list_scores_nan():
    truth = np.array([[0.0], [1]])
    fold = score_fold(truth, truth, slide=np.zeros(2, int), heg50=NONE, hvg50=NONE)
    assert np.isnan(fold.pcc_hvg50)
    assert fold.pcc_slide_mean == pytest.approx(1, abs=1e-12)


def test_float32_predictions_and_mixed_slides_change_nothing_that_matters():
    prediction, truth, slide = random_fold(4)
    order = np.argsort(slide, kind="stable")
    mixed = score(prediction, truth, slide)
    single = score_fold(prediction[order].astype(np.float32), truth[order], slide=slide[order], heg50=NONE, hvg50=NONE)
    np.testing.assert_allclose(single.pearson, mixed.pearson, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_gene_and_spot_order_do_not_matter(seed):
    prediction, truth, slide = random_fold(seed, n=30, g=5)
    rng = np.random.default_rng(seed)
    genes, spots = rng.permutation(5), rng.permutation(30)
    at = np.ix_(spots, genes)
    plain = score(prediction, truth, slide, heg50=(0, 1), hvg50=(3,))
    place = np.argsort(genes)
    moved = score(prediction[at], truth[at], slide[spots], heg50=place[[0, 1]], hvg50=place[[3]])
    np.testing.assert_allclose(moved.pearson, plain.pearson[:, genes], **EXACT)
    for name in ("pcc_slide_mean", "pcc_slide_median", "pcc_pooled", "pcc_heg50", "pcc_hvg50", "mse", "mae"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), abs=1e-10)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), offset=st.floats(-10, 10))
def test_an_affine_change_per_slide_leaves_within_slide_scores_alone(seed, scale, offset):
    prediction, truth, slide = random_fold(seed, n=30, g=5)
    changed = prediction.copy()
    changed[slide == 2] = scale * (prediction[slide == 2] + offset)
    plain, moved = score(prediction, truth, slide), score(changed, truth, slide)
    np.testing.assert_allclose(moved.pearson, plain.pearson, **EXACT)
    flipped = score(-changed, truth, slide)
    np.testing.assert_allclose(flipped.pearson, -plain.pearson, **EXACT)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_and_not_averaged(bad):
    prediction, truth, slide = random_fold(5)
    broken = prediction.copy()
    broken[np.flatnonzero(slide == 4)[0], 3] = bad
    with pytest.raises(HeadError, match="prediction of test slide 4 holds NaN or infinite values for 1 of 7 genes"):
        score(broken, truth, slide)
    with pytest.raises(ProtocolError, match="truth of test slide 4"):
        score(truth, broken, slide)
    with pytest.raises(HeadError, match="prediction of the slide"):
        score_slide(broken, truth)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(HeadError, match=r"shape \(3, 2\) came for a truth of shape \(3, 4\)"):
        pearson_columns(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ProtocolError, match="3 test spots came with 2 slide labels"):
        score(np.ones((3, 1)), np.ones((3, 1)), [0, 0])
    with pytest.raises(ProtocolError, match="0 test spots"):
        score(np.ones((0, 1)), np.ones((0, 1)), [])
