"""Scores of a fold beyond the within-slide Pearson, against scipy, scikit-learn and loops over their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from tissuary.heads.protocols.scores.metrics import score_fold
from tissuary.heads.protocols.scores.morans import morans_i, spatial_weights
from tissuary.heads.protocols.scores.scores import SCORE_RULES
from tissuary.store.errors import HeadError, ProtocolError

EXACT = {"rtol": 0, "atol": 1e-10}
SLIDES = (0, 2, 4)


def random_fold(seed, n=90, g=60):
    """Co-expressed genes with spatial structure on three slides of unlike level, rows in mixed order."""
    rng = np.random.default_rng(seed)
    slide = rng.permutation(np.repeat([4, 0, 2], [n // 2, n // 3, n - n // 2 - n // 3]))
    center_um = rng.uniform(0, 1000, (n, 2))
    factors = np.column_stack([center_um / 300, rng.normal(size=(n, 2))])
    truth = factors @ rng.normal(size=(4, g)) + rng.normal(3, 0.5, (n, g)) + slide[:, None] + rng.normal(0, 2, g)
    return truth * rng.uniform(-0.2, 1, g) + rng.normal(0, 1, (n, g)), truth, slide, center_um


def score(prediction, truth, slide, center_um=None, **options):
    lists = {"heg50": np.array([0]), "hvg50": np.array([1])} | options
    return score_fold(np.asarray(prediction), np.asarray(truth), slide=np.asarray(slide), center_um=center_um, **lists)


def per_slide(function, prediction, truth, slide):
    return np.array([function(prediction[slide == s], truth[slide == s]) for s in SLIDES])


def columns_pearson(p, t):
    return np.array([pearsonr(p[:, g], t[:, g])[0] for g in range(t.shape[1])])


def triangle_pearson(p, t):
    upper = np.triu_indices(t.shape[1], 1)
    return pearsonr(np.corrcoef(p, rowvar=False)[upper], np.corrcoef(t, rowvar=False)[upper])[0]


def test_every_score_has_a_rule_and_an_attribute():
    prediction, truth, slide, center_um = random_fold(0)
    fold = score(prediction, truth, slide, center_um)
    assert list(fold.scores) == list(SCORE_RULES)
    assert all(getattr(fold, name) == value and np.isfinite(value) for name, value in fold.scores.items())
    assert set(fold.by_slide) == {name for name, rule in SCORE_RULES.items() if rule.over != "genes"}


def test_spotwise_scores_are_scipys_over_genes():
    prediction, truth, slide, _ = random_fold(1)
    fold = score(prediction, truth, slide)
    pearson = [pearsonr(p, t)[0] for p, t in zip(prediction, truth, strict=True)]
    rmse = [np.sqrt(((p - t) ** 2).mean()) for p, t in zip(prediction, truth, strict=True)]
    assert fold.pcc_spot == pytest.approx(np.mean(pearson), abs=1e-10)
    assert fold.rmse_spot == pytest.approx(np.mean(rmse), abs=1e-10)
    np.testing.assert_allclose(fold.by_slide["rmse_spot"], [np.array(rmse)[slide == s].mean() for s in SLIDES], **EXACT)
    assert fold.nan_spots == 0


def test_spotwise_scores_hold_across_blocks(monkeypatch):
    import tissuary.heads.protocols.scores.metrics as module

    prediction, truth, slide, _ = random_fold(2)
    plain = score(prediction, truth, slide)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 130)  # two spots a block
    cut = score(prediction, truth, slide)
    assert (cut.pcc_spot, cut.rmse_spot) == pytest.approx((plain.pcc_spot, plain.rmse_spot), abs=1e-14)


def test_spots_whose_truth_is_even_are_left_out_and_counted():
    # Spot 0 goes along, spot 1 is predicted even, spot 2 is truly even, spot 3 against: (1 + 0 - 1) / 3.
    prediction = [[1.0, 2, 3], [5, 5, 5], [1, 2, 3], [3, 2, 1]]
    truth = [[2.0, 4, 6], [1, 2, 3], [0, 0, 0], [0, 1, 2]]
    fold = score(prediction, truth, [0, 0, 0, 0])
    assert fold.pcc_spot == pytest.approx(0, abs=1e-12)
    assert fold.nan_spots == 1
    assert fold.rmse_spot == pytest.approx(
        np.mean(np.sqrt([14 / 3, (16 + 9 + 4) / 3, 14 / 3, (9 + 1 + 1) / 3])), abs=1e-12
    )


def test_r2_is_scikit_learns_over_all_spots():
    prediction, truth, slide, _ = random_fold(3)
    fold = score(prediction, truth, slide)
    expected = r2_score(truth, prediction, multioutput="raw_values")
    np.testing.assert_allclose(fold.r2_genes, expected, **EXACT)
    assert fold.r2 == pytest.approx(expected.mean(), abs=1e-10)


def test_pooled_genes_without_variance_are_left_out_and_counted():
    prediction, truth, slide, _ = random_fold(4)
    truth[:, 5] = 1.5
    prediction[:, 6] = 2.5
    fold = score(prediction, truth, slide)
    others = np.delete(np.arange(60), [5])
    pooled = np.nan_to_num(columns_pearson(prediction[:, np.delete(others, 5)], truth[:, np.delete(others, 5)]))
    assert fold.nan_pooled_genes == 1
    assert fold.pcc_pooled == pytest.approx(pooled.sum() / 59, abs=1e-10)  # gene 6 scores 0
    assert fold.pcc_pooled_median == pytest.approx(np.median([*pooled, 0]), abs=1e-10)
    assert fold.r2 == pytest.approx(r2_score(truth[:, others], prediction[:, others]), abs=1e-10)


def test_oracles_choose_on_test_and_say_so():
    prediction, truth, slide, _ = random_fold(5)
    fold = score(prediction, truth, slide)
    best = per_slide(lambda p, t: np.mean(sorted(columns_pearson(p, t))[-50:]), prediction, truth, slide)
    assert fold.pcc_oracle50 == pytest.approx(best.mean(), abs=1e-10)
    pooled = columns_pearson(prediction, truth)
    assert fold.pcc_pooled_oracle50 == pytest.approx(np.mean(sorted(pooled)[-50:]), abs=1e-10)
    assert fold.pcc_oracle50 > fold.pcc_slide_mean
    assert "test" in SCORE_RULES["pcc_oracle50"].summary


def test_genes_ranked_on_the_test_truth_count_undefined_as_zero():
    prediction, truth, slide, _ = random_fold(6)
    truth[slide == 2, 0] = 99.0  # highest of its slide, and constant there

    def cmrc(p, t, ranking):
        top = np.argsort(-ranking)[:50]
        return np.mean([0.0 if np.ptp(t[:, g]) == 0 else pearsonr(p[:, g], t[:, g])[0] for g in top])

    fold = score(prediction, truth, slide)
    heg = per_slide(lambda p, t: cmrc(p, t, t.sum(axis=0)), prediction, truth, slide)
    hvg = per_slide(lambda p, t: cmrc(p, t, t.var(axis=0)), prediction, truth, slide)
    np.testing.assert_allclose(fold.by_slide["pcc_test_heg50"], heg, **EXACT)
    np.testing.assert_allclose(fold.by_slide["pcc_test_hvg50"], hvg, **EXACT)
    assert fold.nan_genes == 1


def test_relative_variance_distance_is_stems_within_each_slide():
    prediction, truth, slide, _ = random_fold(7)

    def stem(p, t):
        return np.mean((p.var(axis=0) - t.var(axis=0)) ** 2 / t.var(axis=0) ** 2)

    fold = score(prediction, truth, slide)
    assert fold.rvd == pytest.approx(per_slide(stem, prediction, truth, slide).mean(), abs=1e-10)
    assert score(0 * prediction, truth, slide).rvd == pytest.approx(1, abs=1e-12)


def test_gene_correlations_agree_as_their_upper_triangles_do(monkeypatch):
    import tissuary.heads.protocols.scores.metrics as module

    prediction, truth, slide, _ = random_fold(8)
    prediction += 1e3
    expected = per_slide(triangle_pearson, prediction, truth, slide)
    np.testing.assert_allclose(score(prediction, truth, slide).by_slide["gene_correlation"], expected, **EXACT)
    monkeypatch.setattr(module, "GRAM_ELEMENTS", 7 * 60)  # seven spots a block
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 100)
    np.testing.assert_allclose(score(prediction, truth, slide).by_slide["gene_correlation"], expected, **EXACT)
    assert np.isnan(score(prediction, truth, slide, gene_correlation=False).gene_correlation)


def test_gene_correlations_without_variance():
    prediction, truth, slide, _ = random_fold(9, n=30, g=6)
    slide[:] = 0
    prediction[:, 1] = 4.0  # correlated with none
    truth[:, 2] = 0.0  # left out
    fold = score(prediction, truth, slide)
    keep = [0, 1, 3, 4, 5]
    with np.errstate(invalid="ignore"):
        of_prediction = np.nan_to_num(np.corrcoef(prediction[:, keep], rowvar=False))
    upper = np.triu_indices(5, 1)
    expected = pearsonr(of_prediction[upper], np.corrcoef(truth[:, keep], rowvar=False)[upper])[0]
    assert fold.gene_correlation == pytest.approx(expected, abs=1e-10)
    assert np.isnan(score(prediction[:, :2], truth[:, :2], slide).gene_correlation)  # one pair correlates with nothing


def test_predictions_of_one_shape_for_all_genes_have_no_structure_of_their_own():
    _, truth, slide, center_um = random_fold(10)
    one = np.random.default_rng(0).normal(size=(90, 1)) * np.linspace(0.3, 2, 60)
    fold = score((one + 5).astype(np.float32), truth, slide, center_um)
    assert fold.gene_correlation == 0
    assert fold.morans_i_pcc == 0
    still = score(np.full_like(truth, 2.5), truth, slide, center_um)
    assert still.gene_correlation == still.morans_i_pcc == still.pcc_slide_mean == 0
    assert still.constant


def test_morans_i_of_prediction_and_truth():
    prediction, truth, slide, center_um = random_fold(11)
    truth[slide == 4, 3] = 0.0  # left out
    prediction[slide == 4, 8] = 1.0  # no structure: counts as 0
    fold = score(prediction, truth, slide, center_um)
    pearson, distance = [], []
    for s in SLIDES:
        weights = spatial_weights(center_um[slide == s])
        ours, true = morans_i(prediction[slide == s], weights), morans_i(truth[slide == s], weights)
        genes = [g for g in range(60) if np.ptp(truth[slide == s, g]) > 0]
        ours = np.array([0.0 if np.ptp(prediction[slide == s, g]) == 0 else ours[g] for g in genes])
        pearson.append(pearsonr(ours, true[genes])[0])
        distance.append(np.abs(ours - true[genes]).mean())
    np.testing.assert_allclose(fold.by_slide["morans_i_pcc"], pearson, **EXACT)
    np.testing.assert_allclose(fold.by_slide["morans_i_mae"], distance, **EXACT)
    assert np.isnan([score(prediction, truth, slide).morans_i_pcc, score(prediction, truth, slide).morans_i_mae]).all()


def test_undefined_slides_are_counted_for_each_score():
    # Slide 1 is a single spot: no gene varies, nor is there a neighbour; its errors and its spot's profile count.
    rng = np.random.default_rng(0)
    truth, center_um = rng.normal(size=(13, 5)), rng.uniform(0, 100, (13, 2))
    prediction, slide = truth + rng.normal(size=(13, 5)), np.repeat([0, 1], [12, 1])
    fold, alone = (
        score(prediction, truth, slide, center_um),
        score(prediction[:12], truth[:12], slide[:12], center_um[:12]),
    )
    counted = {"pcc_test_heg50", "pcc_test_hvg50", "pcc_spot", "rmse_spot", "mse", "mae"}
    assert fold.undefined == {name: int(name not in counted) for name in fold.by_slide}
    for name in ("pcc_oracle50", "rvd", "gene_correlation", "morans_i_pcc", "morans_i_mae"):
        assert fold.scores[name] == pytest.approx(alone.scores[name], abs=1e-12), name
    assert fold.pcc_test_heg50 == pytest.approx(alone.pcc_test_heg50 / 2, abs=1e-12)  # CMRC's zero
    assert fold.pcc_spot == pytest.approx(
        (12 * alone.pcc_spot + pearsonr(prediction[12], truth[12])[0]) / 13, abs=1e-10
    )


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_gene_and_spot_order_do_not_matter(seed):
    prediction, truth, slide, center_um = random_fold(seed, n=30, g=8)
    rng = np.random.default_rng(seed)
    genes, spots = rng.permutation(8), rng.permutation(30)
    at, place = np.ix_(spots, genes), np.argsort(genes)
    plain = score(prediction, truth, slide, center_um)
    moved = score(prediction[at], truth[at], slide[spots], center_um[spots], heg50=place[[0]], hvg50=place[[1]])
    assert moved.scores == pytest.approx(plain.scores, abs=1e-9, rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-2, 1e2), offset=st.floats(-10, 10))
def test_what_scale_and_shift_leave_alone(seed, scale, offset):
    prediction, truth, slide, center_um = random_fold(seed, n=30, g=8)
    plain = score(prediction, truth, slide, center_um)
    by_gene = np.random.default_rng(seed).uniform(0.1, 3, 8)
    stretched = score(scale * by_gene * prediction + offset, truth, slide, center_um)
    for name in (
        *("pcc_slide_mean", "pcc_slide_median", "pcc_oracle50", "pcc_test_heg50", "pcc_test_hvg50", "pcc_pooled"),
        *("pcc_pooled_median", "pcc_pooled_oracle50", "gene_correlation", "morans_i_pcc", "morans_i_mae"),
    ):
        assert stretched.scores[name] == pytest.approx(plain.scores[name], abs=1e-9), name
    both = score(scale * prediction + offset, scale * truth + offset, slide, center_um)
    factors = {"mse": scale**2, "mae": scale, "rmse_spot": scale}
    for name, value in plain.scores.items():
        assert both.scores[name] == pytest.approx(value * factors.get(name, 1), rel=1e-8, abs=1e-9), name
    spots = np.random.default_rng(seed).uniform(0.1, 3, (30, 1))
    assert score(spots * prediction + offset, truth, slide).pcc_spot == pytest.approx(plain.pcc_spot, abs=1e-9)


def test_perfect_predictions_have_the_best_of_each_score():
    _, truth, slide, center_um = random_fold(12)
    fold = score(truth, truth, slide, center_um)
    for name, rule in SCORE_RULES.items():
        assert fold.scores[name] == pytest.approx(1 if rule.better == "high" else 0, abs=1e-12), name


def test_rows_in_place_and_rows_scattered_are_scored_alike():
    prediction, truth, slide, center_um = random_fold(13)
    order = np.argsort(slide, kind="stable")
    sorted_rows = score(prediction[order], truth[order], slide[order], center_um[order])
    assert sorted_rows.scores == pytest.approx(score(prediction, truth, slide, center_um).scores, abs=1e-10)


def test_positions_and_names_that_do_not_fit_are_refused():
    prediction, truth, slide, center_um = random_fold(14, n=12, g=4)
    with pytest.raises(ProtocolError, match=r"12 test spots came with positions of shape \(11, 2\)"):
        score(prediction, truth, slide, center_um[:11])
    with pytest.raises(ProtocolError, match="r2 is made of genes over all test spots, so it has no value per slide"):
        score(prediction, truth, slide).weights("r2")
    prediction[3, 2] = np.nan
    with pytest.raises(HeadError, match="NaN or infinite values for 1 of 4 genes"):
        score(prediction, truth, slide, center_um)
