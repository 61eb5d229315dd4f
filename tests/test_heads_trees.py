"""Forest, boosted trees and the perceptron: scikit-learn's parts put together, weights, seeds, planted answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from threadpoolctl import threadpool_limits

from tissuary.heads import make_head
from tissuary.heads.linear.principal import Principal, gene_spread
from tissuary.heads.protocols.inner import mean_within_slide
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen

QUICK = {
    "forest": {"trees": 20},
    "boosted": {"rounds": 20, "components": 3},
    "mlp": {"epochs": 10, "members": 1, "hidden": 64},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with threadpool_limits(1):
        yield


def evenly(table):
    return replace(table, weights=np.full(len(table), 0.5, np.float32))


def unit(y):
    return y / y.std(axis=0)


def test_components_are_scikit_learns_where_weights_are_equal():
    rng = np.random.default_rng(0)
    for shape in ((50, 8), (8, 50)):  # primal and dual
        values = rng.normal(size=shape) * np.arange(1, shape[1] + 1)
        theirs = PCA(4, svd_solver="full").fit(values)
        ours = Principal.fit(values, np.full(shape[0], 0.3), size=4)
        np.testing.assert_allclose(ours.transform(values), theirs.transform(values), atol=1e-8)
        np.testing.assert_allclose(ours.restore(ours.transform(values)), theirs.inverse_transform(
            theirs.transform(values)), atol=1e-8)  # fmt: skip
        whole = Principal.fit(values, np.ones(shape[0]), size=500)
        np.testing.assert_allclose(whole.restore(whole.transform(values)), values, atol=1e-8)


def test_weights_of_components_are_repeats_of_rows():
    rng = np.random.default_rng(1)
    values, times = rng.normal(size=(40, 5)), rng.integers(0, 4, size=40)
    repeated = np.repeat(values, times, axis=0)
    ours, theirs = Principal.fit(values, times, size=2), Principal.fit(repeated, np.ones(len(repeated)), size=2)
    np.testing.assert_allclose(ours.basis, theirs.basis, atol=1e-9)
    np.testing.assert_allclose(ours.mean, repeated.mean(0), atol=1e-12)
    np.testing.assert_allclose(gene_spread(values, times), repeated.std(0), rtol=1e-9)
    assert gene_spread(np.ones((9, 1)), np.ones(9)) == 1e-3


def test_the_forest_is_scikit_learns_on_components():
    table = evenly(made_up(dim=12, genes=6))
    test = unseen(table)[1]
    x, y = table.features().astype(float), table.targets.astype(float)
    inputs, outputs = (PCA(k, svd_solver="full").fit(part) for k, part in ((5, x), (3, unit(y))))
    forest = RandomForestRegressor(9, min_samples_leaf=4, max_features=1 / 3, random_state=2)
    forest.fit(inputs.transform(x), outputs.transform(unit(y)), sample_weight=table.weights)
    expected = outputs.inverse_transform(forest.predict(inputs.transform(test.features()))) * y.std(axis=0)
    head = make_head("forest", trees=9, pca=5, components=3, leaf=4, seed=2).fit(table)
    np.testing.assert_allclose(head.predict(test), expected, atol=1e-4)


def test_boosted_trees_are_scikit_learns_on_components():
    table = evenly(made_up(dim=12, genes=6))
    test = unseen(table)[1]
    x, y = table.features().astype(float), table.targets.astype(float)
    inputs, outputs = (PCA(k, svd_solver="full").fit(part) for k, part in ((5, x), (3, unit(y))))
    # The rank of a value among 63 quantiles of the training spots.
    edges = np.percentile(inputs.transform(x), np.arange(1, 64) * 100 / 64, axis=0)
    seen, asked = ((inputs.transform(part)[:, None] > edges).sum(axis=1).astype(float) for part in (x, test.features()))
    found = []
    for target in outputs.transform(unit(y)).T:
        model = HistGradientBoostingRegressor(max_iter=15, max_depth=2, learning_rate=0.2, early_stopping=False)
        found.append(model.fit(seen, target, sample_weight=table.weights).predict(asked))
    expected = outputs.inverse_transform(np.stack(found, axis=1)) * y.std(axis=0)
    head = make_head("boosted", rounds=15, depth=2, rate=0.2, pca=5, components=3).fit(table)
    np.testing.assert_allclose(head.predict(test), expected, atol=1e-4)
    assert head.chosen_ == {"rounds": 15, "selection": "given"}


def test_rounds_and_epochs_are_chosen_on_inner_patients():
    table = made_up(spots=20)
    boosted = make_head("boosted", components=2, pca=6).fit(table)
    assert (boosted.chosen_["selection"], list(boosted.chosen_["inner_scores"])) == (
        "patients",
        ["10", "20", "40", "80"],
    )
    assert boosted.chosen_["inner_scores"][str(boosted.rounds_)] == max(boosted.chosen_["inner_scores"].values())
    stopped = make_head("boosted", components=2, pca=6, rounds=boosted.rounds_).fit(table)
    test = unseen(table)[1]
    np.testing.assert_array_equal(boosted.predict(test), stopped.predict(test))
    mlp = make_head("mlp", members=1, hidden=16).fit(table)
    assert (mlp.chosen_["selection"], list(mlp.chosen_["inner_scores"])) == ("patients", ["5", "10", "20"])
    few = table.select_slides([0, 2])
    assert make_head("boosted", components=2).fit(few).chosen_ == {"rounds": 20, "selection": "fixed"}
    assert make_head("mlp", members=1, hidden=16).fit(few).chosen_ == {"epochs": 10, "selection": "fixed"}


def bent(table):
    """Genes that follow the square of the first feature, which no line does."""
    x = table.features()[:, :1]
    y = (x**2 - 1) * np.linspace(0.5, 2, len(table.panel), dtype=np.float32)
    return replace(table, targets=y.astype(np.float32))


@pytest.mark.parametrize("name", list(QUICK))
def test_what_is_not_a_line_is_found(name):
    table = bent(made_up(spots=120, dim=4))
    truth, test = unseen(table, spots=200)
    truth = bent(truth)
    options = {**QUICK[name], **({"epochs": 40} if name == "mlp" else {})}
    score = mean_within_slide(make_head(name, **options).fit(table).predict(test), truth.targets, truth.slide)
    line = mean_within_slide(make_head("ridge").fit(table).predict(test), truth.targets, truth.slide)
    assert score > 0.75
    assert line < 0.3


@pytest.mark.parametrize("name", list(QUICK))
def test_rows_that_weigh_nothing_teach_nothing(name):
    table = made_up()
    silent = np.isin(table.slide, [1, 4])
    weights = np.where(silent, 0, table.weights).astype(np.float32)
    contrary = np.where(silent[:, None], 7 - 3 * table.targets, table.targets).astype(np.float32)
    test = unseen(table)[1]
    one, other = (
        make_head(name, **QUICK[name]).fit(replace(table, weights=weights, targets=y)).predict(test)
        for y in (table.targets, contrary)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    heard = make_head(name, **QUICK[name]).fit(replace(table, targets=contrary)).predict(test)
    assert np.abs(heard - one).max() > 0.1


@pytest.mark.parametrize("name", list(QUICK))
def test_a_seed_gives_the_same_predictions_on_any_number_of_threads(name):
    table = made_up()
    test = unseen(table)[1]
    first = make_head(name, **QUICK[name], seed=3).fit(table).predict(test)
    np.testing.assert_array_equal(first, make_head(name, **QUICK[name], seed=3).fit(table).predict(test))
    other = make_head(name, **QUICK[name], seed=4).fit(table).predict(test)
    assert (np.abs(other - first).max() > 1e-3) == (name != "boosted")  # which draws nothing
    if name == "forest":
        torch.set_num_threads(2)
        np.testing.assert_array_equal(first, make_head(name, **QUICK[name], seed=3).fit(table).predict(test))
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", list(QUICK))
def test_units_of_genes_and_one_gene_alone_are_kept(name):
    table = made_up()
    test = unseen(table)[1]
    scale = np.array([1, 10, 0.1, 1, 5, 2], np.float32)
    one = make_head(name, **QUICK[name]).fit(table).predict(test)
    scaled = make_head(name, **QUICK[name]).fit(replace(table, targets=table.targets * scale)).predict(test)
    np.testing.assert_allclose(scaled / scale, one, atol=2e-3)
    alone = replace(table, targets=table.targets[:, :1], panel=table.panel[:1])
    assert make_head(name, **QUICK[name]).fit(alone).predict(test).shape == (len(test), 1)
    with pytest.raises(HeadError, match="no targets to learn"):
        make_head(name).fit(test)


def test_the_perceptron_averages_its_members():
    table = made_up()
    test = unseen(table)[1]
    one = make_head("mlp", epochs=3, members=1, hidden=16, seed=5).fit(table)
    both = make_head("mlp", epochs=3, members=2, hidden=16, seed=5).fit(table)
    first, mean = one.predict(test), both.predict(test)
    assert np.abs(mean - first).max() > 1e-3  # the second member is another network
    both.modules_ = both.modules_[:1]  # the first is the same one
    np.testing.assert_allclose(both.predict(test), first, atol=1e-6)
    both = make_head("mlp", epochs=3, members=2, hidden=16, seed=5).fit(table)
    both.modules_ = both.modules_[1:]
    np.testing.assert_allclose(mean, (first + both.predict(test)) / 2, atol=1e-6)
    assert both.n_parameters_ == 2 * (13 * 16 + 17 * 6)
    assert one.loss_curve_[0][-1] < one.loss_curve_[0][0]
