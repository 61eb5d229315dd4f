"""Controls and the diagnostic: closed forms, planted answers, and what they must not know."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from threadpoolctl import threadpool_limits

from tissuary.heads import HEADS, make_head
from tissuary.heads.protocols.inner import inner_folds, mean_within_slide
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen, without_truth


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    with threadpool_limits(1):
        yield


def scikit_learn(x, y, w, alpha):
    return SklearnRidge(alpha=alpha, solver="svd").fit(x, y, sample_weight=w.astype(float))


def by_slide(table, values, rule):
    out = np.empty(values.shape)
    for one in np.unique(table.slide):
        out[table.slide == one] = rule(values[table.slide == one])
    return out


def z_scored(table):
    return by_slide(table, table.center_um, lambda place: (place - place.mean(0)) / place.std(0))


def on_rings(table):
    """The same table with genes that follow rings about the middle of every slide."""
    radius = np.hypot(*z_scored(table).T)
    y = np.stack([np.cos(3 * radius), np.sin(3 * radius)], axis=1).astype(np.float32)
    return replace(table, targets=y, target_offset=np.zeros((len(table.slide_ids), 2), np.float32), panel=("a", "b"))


def log_depth(table):
    return by_slide(table, np.log1p(table.depth)[:, None], lambda values: values - values.mean(0))


def test_smooth_coordinates_are_scikit_learns_ridge_on_bumps():
    table, (truth, test) = made_up(), unseen(made_up())
    centres = np.linspace(-2, 2, 3)

    def basis(rows):
        x, y = z_scored(rows).T
        columns = [x, y, x * x, x * y, y * y]
        for left in centres:
            for low in centres:
                squared = (np.clip(x, -3, 3) - left) ** 2 + (np.clip(y, -3, 3) - low) ** 2
                columns.append(np.exp(-squared / (2 * 2.0**2)))
        return np.stack(columns, axis=1)

    spread = basis(table).std(0)
    theirs = scikit_learn(basis(table) / spread, table.targets, table.weights, 4.0).predict(basis(truth) / spread)
    ours = make_head("coordinates-smooth", side=3, alpha=4.0).fit(table).predict(test)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_smooth_coordinates_see_rings_that_a_quadratic_cannot_and_no_features():
    table = on_rings(made_up(spots=150))
    truth = on_rings(unseen(table, spots=200, genes=2)[0])
    score = {
        name: mean_within_slide(make_head(name).fit(table).predict(without_truth(truth)), truth.targets, truth.slide)
        for name in ("coordinates", "coordinates-smooth")
    }
    assert score["coordinates-smooth"] > 0.8
    assert score["coordinates"] < score["coordinates-smooth"] - 0.15
    planted = made_up(noise=0.01, spots=100)
    other, test = unseen(planted, noise=0.01, spots=100)
    assert (
        abs(mean_within_slide(make_head("coordinates-smooth").fit(planted).predict(test), other.targets, other.slide))
        < 0.2
    )


def test_positions_count_within_their_slide_alone():
    table = made_up()
    test = unseen(table)[1]
    moved = replace(test, center_um=test.center_um * [2.0, 0.5] + [5e4, -3e3])
    for name in ("coordinates", "coordinates-smooth"):
        head = make_head(name).fit(table)
        np.testing.assert_allclose(head.predict(moved), head.predict(test), atol=1e-5)


def test_predicted_depth_is_one_slope_per_gene_on_depth_predicted_without_the_patient():
    table = made_up()
    test = unseen(table)[1]
    head = make_head("predicted-depth").fit(table)
    x, w, depth = table.features().astype(float), table.weights, log_depth(table)
    alpha = head.ridge_.alpha_
    assert head.chosen_["selection"] == "patients"
    seen = np.empty((len(table), 1))
    for rows, held in inner_folds(table)[1]:
        seen[held] = scikit_learn(x[rows], depth[rows], w[rows], alpha).predict(x[held]).reshape(-1, 1)
    guess = scikit_learn(x, depth, w, alpha).predict(test.features().astype(float)).reshape(-1, 1)
    slopes = scikit_learn(seen / seen.std(), table.targets, w, 1.0)
    np.testing.assert_allclose(head.predict(test), slopes.predict(guess / seen.std()), atol=1e-5)


def test_depth_controls_find_what_depth_makes_and_nothing_else():
    table = made_up(spots=80)
    truth = unseen(table, spots=150)[0]

    def planted(rows):
        """Depth follows the first feature; one gene follows depth up, one down, one not at all."""
        depth = np.exp(6 + 0.8 * rows.features()[:, 0])
        noise = np.random.default_rng(1).normal(size=len(rows))
        y = np.stack([np.log(depth), -np.log(depth), noise], axis=1)
        y = by_slide(rows, y, lambda values: values - values.mean(0)).astype(np.float32)
        offset = np.zeros((len(rows.slide_ids), 3), np.float32)
        return replace(rows, depth=depth, targets=y, target_offset=offset, panel=("up", "down", "none"))

    table, truth = planted(table), planted(truth)
    for name in ("predicted-depth", "depth"):
        test = replace(without_truth(truth), depth=truth.depth if name == "depth" else None)
        found = make_head(name).fit(table).predict(test)
        assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-3) == 1
        up, down, none = (np.corrcoef(found[:, g], truth.targets[:, g])[0, 1] for g in range(3))
        assert min(up, down) > 0.95
        assert abs(none) < 0.3
    slopes = scikit_learn(log_depth(table) / log_depth(table).std(), table.targets, table.weights, 1.0)
    expected = slopes.predict(log_depth(truth) / log_depth(table).std())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_diagnostic_says_why_it_cannot_run_and_is_marked():
    table = made_up()
    assert [name for name, entry in HEADS.items() if entry.diagnostic] == ["depth"]
    with pytest.raises(HeadError, match="no total counts to look up: training tables carry them, and of test tables"):
        make_head("depth").fit(table).predict(unseen(table)[1])
    for name in ("depth", "predicted-depth"):
        with pytest.raises(HeadError, match="this table has no total counts to learn"):
            make_head(name).fit(replace(table, depth=None))


def test_the_patient_mean_speaks_only_where_a_patient_spans():
    table = made_up()
    test = replace(unseen(table)[1], target_offset=np.ones((1, 6), np.float32))
    alike = [make_head(name).fit(table).predict(test) for name in ("mean", "patient-mean")]
    np.testing.assert_allclose(*alike, atol=1e-6)
    known = replace(test, patient_ids=("B",))
    whole = make_head("patient-mean").fit(table).predict(known) + 1
    np.testing.assert_allclose(whole[0], table.target_offset[2:4].mean(0), atol=1e-6)


def test_shuffled_is_ridge_on_another_order_by_seed():
    table = made_up()
    truth, test = unseen(table)
    first, again, other = (make_head("shuffled", seed=seed).fit(table).predict(test) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert mean_within_slide(make_head("ridge").fit(table).predict(test), truth.targets, truth.slide) > 0.8
    scores = [
        mean_within_slide(make_head("shuffled", seed=seed).fit(table).predict(test), truth.targets, truth.slide)
        for seed in range(5)
    ]
    assert abs(np.mean(scores)) < 0.25
