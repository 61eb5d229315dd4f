"""Ridge from shared Gram matrices, and HEST's probe, against scikit-learn fitted fold by fold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tissuary.heads import make_head
from tissuary.heads.linear import ridge as ridge_design
from tissuary.heads.linear.closed_form import comoments, pooled
from tissuary.heads.linear.ridge import RidgeDesign, design_of, forget_design, inner_groups
from tissuary.heads.protocols.inner import inner_folds
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    with threadpool_limits(1):
        yield


def scikit_learn(x, y, w, alpha):
    return SklearnRidge(alpha=alpha, solver="svd").fit(x.astype(float), y.astype(float), sample_weight=w.astype(float))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    offset=st.sampled_from([0.0, 3.0, 1e5]),
    empty=st.booleans(),
    seed=st.integers(0, 99),
)
def test_groups_pool_to_the_moments_of_all_their_rows(sizes, offset, empty, seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(group), 3)) + offset * rng.normal(size=(len(sizes), 3))[group]
    y, w = rng.normal(size=(len(group), 2)), rng.uniform(0.1, 1, size=len(group))
    if empty and len(sizes) > 1:
        w[group == 0] = 0
    parts = [comoments(*(torch.from_numpy(a[group == one]) for a in (x, y, w))) for one in range(len(sizes))]
    whole = pooled(parts)
    dx, dy = x - np.average(x, axis=0, weights=w), y - np.average(y, axis=0, weights=w)
    np.testing.assert_allclose(whole.products, dx.T @ (w[:, None] * dy), rtol=1e-9, atol=1e-9 * (1 + offset))
    np.testing.assert_allclose(whole.x_mean, np.average(x, axis=0, weights=w), rtol=1e-12, atol=1e-10)
    assert whole.weight == pytest.approx(w.sum())


# Rows left by inner folds: 202 to 218 of 268. More than features, fewer than features, and one fold of either kind.
@pytest.mark.parametrize("dim", [12, 300, 210])
def test_every_fold_is_scikit_learns_ridge_on_its_rows(dim):
    table = made_up(dim=dim)
    design, cross = design_of(table), design_of(table).cross(table.targets)
    x, y, w = table.features(), table.targets, table.weights
    rule, folds = inner_folds(table)
    assert (rule, design.n_groups) == ("patients", 4)
    cases = [(None, np.arange(len(x))), *((int(design.group[held[0]]), rows) for rows, held in folds)]
    assert sorted(without for without, _ in cases[1:]) == [0, 1, 2, 3]
    for without, rows in cases:
        path = design.path(cross, without=without)
        for alpha in (0.01 * dim, 100.0 * dim):
            theirs = scikit_learn(x[rows], y[rows], w[rows], alpha)
            scale = np.abs(theirs.coef_).max()
            np.testing.assert_allclose(path.coefficients(alpha).T, theirs.coef_, rtol=0, atol=1e-9 * scale)
            np.testing.assert_allclose(path.predict(x, (alpha,))[0], theirs.predict(x.astype(float)), atol=1e-9)


def test_rows_are_predicted_without_their_patient():
    table = made_up()
    design = design_of(table)
    found = design.held_out(design.cross(table.targets), 5.0)
    x, y, w = table.features(), table.targets, table.weights
    for rows, held in inner_folds(table)[1]:
        theirs = scikit_learn(x[rows], y[rows], w[rows], 5.0)
        np.testing.assert_allclose(found[held], theirs.predict(x[held].astype(float)), atol=1e-10)


def test_a_patient_that_is_left_out_leaves_no_rounding_behind():
    """Its features are ten million times as large: subtracted from a sum, they would leave no digit of the others."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    x, y, w = rng.normal(size=(60, 4)), rng.normal(size=(60, 2)), np.ones(60)
    x[group == 0] *= 1e7
    design = RidgeDesign(x, w, group)
    theirs = scikit_learn(x[20:], y[20:], w[20:], 0.1)
    found = design.path(design.cross(y), without=0).coefficients(0.1)
    np.testing.assert_allclose(found.T, theirs.coef_, rtol=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
def test_pca_is_ridge_on_principal_components_of_the_training_rows(weighted):
    table = made_up(dim=20)
    table = table if weighted else replace(table, weights=np.full(len(table), 0.5, np.float32))
    test = unseen(table)[1]
    x, y, w = table.features().astype(float), table.targets.astype(float), table.weights.astype(float)
    head = make_head("ridge", pca=5, alpha=3.0).fit(table)
    mean = np.average(x, axis=0, weights=w)
    basis = np.linalg.svd((x - mean) * np.sqrt(w)[:, None], full_matrices=False)[2][:5].T
    if not weighted:
        np.testing.assert_allclose(np.abs(basis), np.abs(PCA(5, svd_solver="full").fit(x).components_.T), atol=1e-10)
    theirs = scikit_learn((x - mean) @ basis, y, w, 3.0)
    np.testing.assert_allclose(head.predict(test), theirs.predict((test.features() - mean) @ basis), atol=1e-5)
    assert head.n_parameters_ == 6 * len(table.panel)
    assert make_head("ridge", pca=5).fit(table).chosen_["selection"] == "patients"
    with pytest.raises(HeadError, match="pca=21 components of training rows that span 20 dimensions: give pca between"):
        make_head("ridge", pca=21, alpha=1.0).fit(table)


def test_views_lie_side_by_side():
    both = made_up(dim=9)
    parts = both.columns["made-up@20x"].parts
    column = both.columns["made-up@20x"]
    columns = {
        "a@20x": replace(column, key="a@20x", parts=tuple(part[:, :4] for part in parts)),
        "b@5x": replace(column, key="b@5x", parts=tuple(part[:, 4:] for part in parts)),
    }
    split = replace(both, columns=columns)
    np.testing.assert_array_equal(split.features(), both.features())
    alphas = 9 * np.logspace(-2, 2, 10)
    for table in (split, both):
        np.testing.assert_allclose([float(a) for a in make_head("ridge").fit(table).chosen_["inner_scores"]], alphas)
    one, other = (make_head("ridge").fit(table).predict(table) for table in (split, both))
    np.testing.assert_array_equal(one, other)


def test_the_order_of_rows_says_nothing():
    table = made_up()
    test = unseen(table)[1]
    order = np.random.default_rng(3).permutation(len(table))
    for name in ("ridge", "predicted-depth", "coordinates", "coordinates-smooth"):
        one, other = (make_head(name).fit(rows).predict(test) for rows in (table, table.select_rows(order)))
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_heads_on_one_table_share_decompositions_and_changed_numbers_never_do():
    table = made_up()
    forget_design()
    design = design_of(table)
    make_head("ridge").fit(table)
    make_head("shuffled").fit(table)
    make_head("predicted-depth").fit(table)
    assert design_of(replace(table, targets=-table.targets)) is design
    assert sorted(design._spectra, key=str) == [0, 1, 2, 3, None]
    kept = design.spectrum(0)
    assert design.spectrum(0) is kept
    nudged = table.weights.copy()
    nudged[5] *= 1.000001
    assert design_of(replace(table, weights=nudged)) is not design
    assert design_of(replace(table, patient_ids=("A", "A", "A", "B", "B", "B", "C", "C"))) is not design_of(table)
    before = make_head("ridge").fit(table).model_.basis.copy()
    table.columns["made-up@20x"].parts[0][3, 2] += 1.0  # in place, behind everyone's back
    assert not np.array_equal(make_head("ridge").fit(table).model_.basis, before)
    with pytest.raises(ValueError, match="read-only"):
        design_of(table).x[0, 0] = 1.0
    last = design_of(table)
    forget_design()
    assert design_of(table) is not last


def test_where_memory_is_short_nothing_is_kept_and_all_is_the_same(monkeypatch):
    table = made_up()
    test = unseen(table)[1]
    usual = make_head("ridge").fit(table)
    monkeypatch.setattr(ridge_design, "MOST_BYTES", 0)
    forget_design()
    spare = make_head("ridge").fit(table)
    assert design_of(table)._spectra == {}
    assert spare.alpha_ == usual.alpha_
    np.testing.assert_allclose(spare.predict(test), usual.predict(test), atol=1e-6)


def test_rows_that_weigh_nothing_are_refused_or_say_nothing():
    table = made_up()
    with pytest.raises(HeadError, match="the training rows weigh nothing"):
        make_head("ridge").fit(replace(table, weights=np.zeros_like(table.weights)))
    weights = np.where(table.slide == 1, 0, table.weights).astype(np.float32)
    targets = np.where((table.slide == 1)[:, None], 100.0, table.targets).astype(np.float32)
    test = unseen(table)[1]
    one, other = (make_head("ridge", alpha=2.0).fit(replace(table, weights=weights, targets=y)) for y in (
        table.targets, targets))  # fmt: skip
    np.testing.assert_allclose(one.predict(test), other.predict(test), atol=1e-6)


@pytest.mark.parametrize("dim", [8, 400])
def test_slides_are_left_out_where_patients_are_few(dim):
    table = made_up("AB", dim=dim)
    np.testing.assert_array_equal(inner_groups(table), table.slide)
    assert make_head("ridge").fit(table).chosen_["selection"] == "slides"
    one = table.select_slides([0, 2])
    head = make_head("ridge").fit(one)
    assert (head.alpha_, head.chosen_["selection"], design_of(one).n_groups) == (dim, "fixed", 1)


def raw_targets(table, level=3.0):
    """As under HEST: whole log counts, no centring, no weights."""
    return replace(table, targets=table.targets + np.float32(level), weights=np.ones_like(table.weights))


@pytest.mark.parametrize("pca", [256, None])
def test_the_hest_probe_is_scikit_learn_composed_by_the_page(pca):
    table = raw_targets(made_up("ABC", each=1, spots=120, dim=300, genes=50, noise=2.0))
    truth, test = unseen(table, spots=80)
    x, y, held = table.features(), table.targets, test.features()
    head = make_head("ridge", mode="hest", pca=pca, seed=1).fit(table)
    found = head.predict(test)
    if pca:
        scaler = StandardScaler().fit(x)
        reduce = PCA(n_components=256, random_state=1)
        learnt = reduce.fit_transform(scaler.transform(x))
        x, held = learnt.astype(np.float32), reduce.transform(scaler.transform(held)).astype(np.float32)
    alpha = 100 / (x.shape[1] * 50)
    probe = SklearnRidge(solver="lsqr", alpha=alpha, fit_intercept=False, max_iter=1000, random_state=1)
    expected = probe.fit(x, y).predict(held)
    assert head.alpha_ == pytest.approx(0.0078125 if pca else 100 / (300 * 50))
    for gene in range(50):
        mine, theirs = (pearsonr(one[:, gene], truth.targets[:, gene])[0] for one in (found, expected))
        assert mine == pytest.approx(theirs, abs=1e-6)
    # What is put back is constant over spots: the training mean where features have mean zero.
    level = found - expected
    assert np.ptp(level, axis=0).max() < 1e-4
    if pca:
        np.testing.assert_allclose(level.mean(0), y.mean(0), atol=1e-4)
    assert np.mean((found - 3 - truth.targets) ** 2) < np.mean((expected - 3 - truth.targets) ** 2)


def test_the_hest_probe_knows_no_weights_and_names_what_it_cannot_reduce():
    table = made_up("ABC", each=1, spots=120, dim=20)
    test = unseen(table)[1]
    one, other = (make_head("ridge", mode="hest", pca=8).fit(rows).predict(test) for rows in (
        table, replace(table, weights=np.ones_like(table.weights))))  # fmt: skip
    np.testing.assert_array_equal(one, other)
    with pytest.raises(HeadError, match="came to 363 training spots of 20 features: it needs as many of both"):
        make_head("ridge", mode="hest", pca=256).fit(table)
    with pytest.raises(HeadError, match="head 'ridge' has no mode 'paper': choose default, hest"):
        make_head("ridge", mode="paper").fit(table)
