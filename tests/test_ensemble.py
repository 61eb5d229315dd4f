"""The stacked ensemble: weights against scipy's and closed forms, and predictions of rows never fitted on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from tissuary.heads import make_head
from tissuary.heads.baselines.ensemble import combined, cross_folds, gene_weights, make_member, shared_weights, solve
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.saving.save import save_head
from tissuary.heads.saving.saved import load_head
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 10_000))
def test_weights_are_scipys_non_negative_least_squares(members, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, members)), rng.normal(size=40)
    np.testing.assert_allclose(solve(x.T @ x, x.T @ y), nnls(x, y)[0], atol=1e-8)


def planted(weights, *, seed=0, genes=5, rows=90):
    """Members' held-out predictions, and targets that are their weighted sum plus a level of every slide."""
    rng = np.random.default_rng(seed)
    slide = np.repeat([0, 1, 2], rows // 3)
    predicted = rng.normal(size=(len(weights), rows, genes)) * rng.uniform(0.5, 2, size=genes)
    truth = np.einsum("h,hmg->mg", weights, predicted) + rng.normal(size=(3, genes))[slide]
    return predicted, truth, rng.uniform(0.2, 1, size=rows), slide


def test_planted_weights_are_found_whatever_the_levels_of_slides():
    predicted, truth, weight, slide = planted([0.7, 0.0, 0.2])
    np.testing.assert_allclose(shared_weights(predicted, truth, weight, slide), [0.7, 0, 0.2], atol=1e-8)


def test_a_member_that_points_the_wrong_way_gets_nothing():
    predicted, truth, weight, slide = planted([0.8, -0.5])
    assert shared_weights(predicted, truth, weight, slide)[1] == 0


def test_a_genes_own_weights_go_from_its_own_to_the_shared_ones():
    predicted, truth, weight, slide = planted([0.6, 0.3])
    truth[:, 0] = 1.5 * predicted[0, :, 0]  # one gene that follows the first member alone
    shared = shared_weights(predicted, truth, weight, slide)
    free, pulled, tight = (
        gene_weights(predicted, truth, weight, slide, shared=shared, shrinkage=s) for s in (0.0, 10.0, 1e9)
    )
    np.testing.assert_allclose(free[:, 0], [1.5, 0], atol=1e-8)
    np.testing.assert_allclose(free[:, 1], [0.6, 0.3], atol=1e-8)
    np.testing.assert_allclose(tight, np.tile(shared[:, None], (1, 5)), atol=1e-4)
    assert shared[0] < pulled[0, 0] < 1.5


def test_the_sum_is_written_out():
    predicted = np.arange(12.0).reshape(2, 3, 2)
    expected = 0.5 * predicted[0] + 2 * predicted[1]
    np.testing.assert_allclose(combined(predicted, np.array([0.5, 2.0])), expected)
    np.testing.assert_allclose(combined(predicted, np.array([[0.5, 0.5], [2.0, 2.0]])), expected)


@pytest.fixture(scope="module")
def train():
    return made_up("ABCDE", each=1, noise=2.0)


def test_held_out_predictions_are_those_of_members_fitted_without_the_patient(train):
    head = make_head("ensemble", members="knn:k=3+knn:k=20").fit(train)
    rule, folds = cross_folds(train)
    assert (rule, len(folds)) == ("patients", 3)
    patient = np.array(train.patient_ids)[train.slide]
    predicted, rows = [], []
    for fit, held in folds:
        assert not set(patient[fit]) & set(patient[held])
        one = replace(train.select_rows(held), targets=None, weights=None)
        two = [make_head("knn", k=k).fit(train.select_rows(fit)).predict(one) for k in (3, 20)]
        predicted.append(np.stack(two))
        rows.append(held)
    rows, predicted = np.concatenate(rows), np.concatenate(predicted, axis=1).astype(np.float64)
    y, w, slide = train.targets[rows].astype(np.float64), train.weights[rows], train.slide[rows]
    x = predicted.copy()
    for one in np.unique(slide):
        here = slide == one
        y[here] -= np.average(y[here], axis=0, weights=w[here])
        x[:, here] -= np.average(x[:, here], axis=1, weights=w[here])[:, None]
    spread = np.sqrt(np.average(y**2, axis=0, weights=w))
    root = np.sqrt(w)[:, None] / spread
    expected = nnls((x * root).reshape(2, -1).T, (y * root).ravel())[0]
    np.testing.assert_allclose(head.weights_, expected, atol=1e-5)
    test = unseen(train)[1]
    whole = sum(w * make_head("knn", k=k).fit(train).predict(test) for w, k in zip(expected, (3, 20), strict=True))
    np.testing.assert_allclose(head.predict(test), whole, atol=1e-4)


def test_an_ensemble_of_different_heads_is_better_than_its_worst_and_says_its_weights(train):
    head = make_head("ensemble", members="ridge+knn", per_gene=True).fit(train)
    assert set(head.chosen_["weights"]) == {"ridge", "knn"}
    assert head.weights_.shape == (2, 6)
    scores = head.chosen_["inner_scores"]
    assert scores["ensemble"] > scores["knn"]
    truth, test = unseen(train, spots=200, noise=2.0)
    errors = {
        name: ((make_head(name).fit(train).predict(test) - truth.targets) ** 2).mean() for name in ("ridge", "knn")
    }
    assert ((head.predict(test) - truth.targets) ** 2).mean() < max(errors.values())


def test_one_slide_is_cross_fitted_by_quarters():
    one = made_up("A", each=1, spots=80)
    head = make_head("ensemble", members="ridge+knn").fit(one)
    assert head.chosen_["cross_fit"] == "blocks"


def test_pure_noise_gives_hardly_any_prediction():
    rng = np.random.default_rng(0)
    table = made_up("ABCDEF", each=1)
    table = replace(table, targets=rng.normal(size=table.targets.shape).astype(np.float32))
    head = make_head("ensemble", members="ridge+knn").fit(table)
    assert head.predict(unseen(table)[1]).std() < 0.15


def test_a_saved_ensemble_brings_its_members(train, tmp_path):
    head = make_head("ensemble", members="ridge+knn+mlp:epochs=1;members=1;hidden=16").fit(train)
    save_head(head, tmp_path, table=train, protocol=get_protocol("strict"))
    again, test = load_head(tmp_path, device="cpu").head, unseen(train)[1]
    np.testing.assert_array_equal(again.predict(test), head.predict(test))
    assert again.members_[2].device == "cpu"


def test_members_are_checked_before_anything_is_trained(train):
    with pytest.raises(HeadError, match="there is no head 'ridgy'"):
        make_head("ensemble", members="ridge+ridgy").fit(train)
    with pytest.raises(HeadError, match="ensemble cannot be a member of an ensemble"):
        make_head("ensemble", members="ensemble").fit(train)
    with pytest.raises(HeadError, match="density cannot be a member"):
        make_head("ensemble", members="ridge+density").fit(train)
    assert make_member("ridge:hest;pca=3", seed=4).__dict__ == {"alpha": None, "pca": 3, "mode": "hest", "seed": 4}


def test_levels_that_are_part_of_the_targets_pass_the_weights_untouched():
    table, (_, bare) = made_up("ABCDE", each=1, noise=2.0), unseen(made_up(), spots=100)
    whole = replace(table, targets=table.targets + 5.0)
    predicted = make_head("ensemble", members="ridge+knn").fit(whole).predict(bare)
    assert predicted.mean() == pytest.approx(5.0, abs=0.15)
    centred = make_head("ensemble", members="ridge+knn").fit(table).predict(bare)
    assert abs(centred.mean()) < 0.15
