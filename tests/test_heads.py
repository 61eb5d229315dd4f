"""Heads through their contract, against scikit-learn and planted answers."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import NearestNeighbors

from tissuary.heads import HEADS, make_head
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.engine.selection import merge_folds
from tissuary.heads.linear.closed_form import ridge_path
from tissuary.heads.protocols.inner import inner_folds, within_slide_pearson
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import outer_folds
from tissuary.heads.registry import resolve_heads
from tissuary.store.errors import HeadError

SLIDES = {f"{p}{i}": (p, 40 + 3 * i) for p in "ABCD" for i in range(2)}


@pytest.fixture(scope="module")
def prepared(make_shared_store):
    store = make_shared_store(SLIDES, views=("20x", "5x"))
    protocol = get_protocol("strict")
    table = store.table(["toy@20x", "toy@5x"], control_keys=["haematoxylin@20x"])
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    return prepare(prepare_cohort(table, protocol), fold, protocol)


@pytest.mark.parametrize(("n", "d"), [(60, 11), (20, 45)])
@pytest.mark.parametrize("alpha", [0.1, 3.0, 500.0])
def test_ridge_path_is_scikit_learns_weighted_ridge(n, d, alpha):
    rng = np.random.default_rng(n)
    x, y, w = rng.normal(1, 2, size=(n, d)), rng.normal(size=(n, 3)), rng.uniform(0.1, 1, size=n)
    unseen = rng.normal(size=(7, d))
    theirs = SklearnRidge(alpha=alpha, solver="svd").fit(x, y, sample_weight=w)
    ours = ridge_path(x, y, w)
    np.testing.assert_allclose(ours.predict(unseen, (1.0, alpha))[1], theirs.predict(unseen), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.coefficients(alpha).T, theirs.coef_, rtol=1e-7, atol=1e-10)


def test_ridge_chooses_alpha_on_training_patients(prepared):
    train = prepared.train
    head = make_head("ridge").fit(train)
    assert head.chosen_["selection"] == "patients"
    alphas = 16 * np.logspace(-2, 2, 10)
    x, y, w = train.features(), train.targets, train.weights
    scores = []
    for alpha in alphas:
        by_slide = []
        for rows, held in inner_folds(train)[1]:
            model = SklearnRidge(alpha=alpha, solver="svd").fit(x[rows], y[rows], sample_weight=w[rows])
            by_slide += np.nanmean(within_slide_pearson(model.predict(x[held]), y[held], train.slide[held]), 1).tolist()
        scores.append(np.mean(by_slide))
    assert head.alpha_ == pytest.approx(alphas[int(np.argmax(scores))])
    np.testing.assert_allclose(list(head.chosen_["inner_scores"].values()), scores, atol=1e-6)
    final = SklearnRidge(alpha=head.alpha_, solver="svd").fit(x, y, sample_weight=w)
    np.testing.assert_allclose(head.predict(prepared.test), final.predict(prepared.test.features()), atol=1e-5)


def test_inner_folds_hold_out_whole_training_patients(prepared):
    train = prepared.train
    rule, folds = inner_folds(train)
    patient = np.array(train.patient_ids)[train.slide]
    assert (rule, len(folds)) == ("patients", 3)
    for rows, held in folds:
        assert len(set(patient[held])) == 1
        assert not set(patient[rows]) & set(patient[held])
        assert sorted([*rows, *held]) == list(range(len(train)))


def test_rows_that_heads_see_are_standardised_on_their_own_slide(prepared):
    for table in (prepared.train, prepared.test):
        x = table.features()
        assert x.shape[1] == 16
        for one in range(len(table.slide_ids)):
            np.testing.assert_allclose(x[table.slide == one].mean(0), 0, atol=1e-4)
            np.testing.assert_allclose(x[table.slide == one].std(0), 1, atol=1e-3)


def test_density_and_coordinates_are_scikit_learns_ridge_on_their_columns(prepared):
    train, test = prepared.train, prepared.test

    def position(table):
        rows = np.empty((len(table), 5))
        for one in range(len(table.slide_ids)):
            here = table.slide == one
            x, y = ((table.center_um[here] - table.center_um[here].mean(0)) / table.center_um[here].std(0)).T
            rows[here] = np.stack([x, y, x * x, x * y, y * y], axis=1)
        return rows

    def density(table):
        return table.control_columns["haematoxylin@20x"].gather(table.slide, table.row)

    for name, column, alpha in (("coordinates", position, 5.0), ("density", density, 1.0)):
        theirs = SklearnRidge(alpha=alpha, solver="svd").fit(column(train), train.targets, sample_weight=train.weights)
        ours = make_head(name).fit(train).predict(test)
        np.testing.assert_allclose(ours, theirs.predict(column(test)), atol=1e-5)


def test_few_training_slides_take_the_fixed_alpha(make_store):
    store = make_store({"a1": ("A", 30), "b1": ("B", 30), "c1": ("C", 30)})
    protocol = get_protocol("strict")
    table = store.table("toy@20x")
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    head = make_head("ridge").fit(prepare(prepare_cohort(table, protocol), fold, protocol).train)
    assert (head.alpha_, head.chosen_["selection"]) == (8.0, "fixed")


def test_knn_is_the_weighted_mean_of_scikit_learns_neighbours(prepared):
    train, test = prepared.train, prepared.test
    head = make_head("knn", k=7).fit(train)
    found = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train.features()).kneighbors(test.features())[1]
    w = train.weights[found]
    expected = (w[..., None] * train.targets[found]).sum(1) / w.sum(1, keepdims=True)
    np.testing.assert_allclose(head.predict(test), expected, atol=1e-5)


TOKEN_HEADS = ("m2ort", "m2ost")


def quick(name, **options):
    """A head that trains once and briefly, where it trains at all."""
    if name == "ensemble":
        return make_head(name, members="ridge+knn")
    known = inspect.signature(type(make_head(name)).__init__).parameters
    return make_head(name, **{option: value for option, value in options.items() if option in known})


@pytest.mark.parametrize("name", [name for name in HEADS if name not in TOKEN_HEADS])
def test_every_head_fits_predicts_and_repeats(prepared, name):
    test = replace(prepared.test, depth=prepared.test_depth) if HEADS[name].diagnostic else prepared.test
    brief = {"epochs": 2, "members": 1, "rounds": 10, "trees": 10}
    first, second = (quick(name, **brief).fit(prepared.train).predict(test) for _ in range(2))
    assert first.shape == prepared.truth.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_a_head_that_mixes_tokens_says_how_to_make_them(prepared, name):
    with pytest.raises(HeadError, match="tissuary featurize SOURCE --store STORE --"):
        make_head(name).fit(prepared.train)


@pytest.mark.parametrize("name", ["ridge", "knn", "mmap"])
def test_heads_find_what_was_planted_and_controls_do_not(prepared, name):
    """Counts follow two feature dimensions; positions, density and shuffled targets say nothing."""

    def score(head):
        prediction = quick(head, epochs=10, members=1).fit(prepared.train).predict(prepared.test)
        return np.nanmean(within_slide_pearson(prediction, prepared.truth, prepared.test.slide))

    floor = max(score(control) for control in ("coordinates", "density", "shuffled", "mean", "patient-mean"))
    assert score(name) > floor + 0.2
    assert abs(score("shuffled")) < 0.1
    one_view = replace(prepared.train, columns={"toy@20x": prepared.train.columns["toy@20x"]})
    half = replace(prepared.test, columns={"toy@20x": prepared.test.columns["toy@20x"]})
    seen = quick(name, epochs=10, members=1).fit(one_view).predict(half)
    assert score(name) > np.nanmean(within_slide_pearson(seen, prepared.truth, half.slide)) + 0.05  # both views count


def test_slide_level_controls_are_constant_within_slides(prepared):
    for name in ("mean", "patient-mean", "slide-feature-mean"):
        prediction = make_head(name).fit(prepared.train).predict(prepared.test)
        whole = prediction + prepared.test.target_offset[prepared.test.slide]
        for one in np.unique(prepared.test.slide):
            assert np.ptp(whole[prepared.test.slide == one], axis=0).max() < 1e-5
        assert (within_slide_pearson(whole, prepared.truth, prepared.test.slide) == 0).all()


def test_patient_mean_knows_a_patient_that_spans_the_split(make_store):
    store = make_store({"a1": ("A", 30), "a2": ("A", 30), "b1": ("B", 30)})
    protocol = get_protocol("strict-slide")
    table = store.table("toy@20x")
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]  # tests a1, trains on a2 and b1
    one = prepare(prepare_cohort(table, protocol), fold, protocol)
    whole = make_head("patient-mean").fit(one.train).predict(one.test) + one.test.target_offset[one.test.slide]
    np.testing.assert_allclose(whole[0], one.train.target_offset[0], atol=1e-6)


def test_a_test_table_holds_nothing_to_copy(prepared):
    test = prepared.test
    assert test.targets is None
    assert test.counts is None
    assert test.depth is None
    assert test.weights is None


def test_inner_folds_are_joined_without_splitting_groups():
    rows = [np.arange(i * 3, i * 3 + 3) for i in range(5)]
    folds = tuple((np.setdiff1d(np.arange(15), held), held) for held in rows)
    merged = merge_folds(folds, 2)
    assert [held.tolist() for _, held in merged] == [[0, 1, 2, 6, 7, 8, 12, 13, 14], [3, 4, 5, 9, 10, 11]]
    for train, held in merged:
        assert sorted([*train, *held]) == list(range(15))


def test_unknown_heads_and_options_are_named(prepared):
    with pytest.raises(HeadError, match=r"there is no head 'ridgy': did you mean ridge\?"):
        make_head("ridgy")
    with pytest.raises(HeadError, match="head 'ridge' has no option 'beta': there are alpha"):
        make_head("ridge", beta=1)
    with pytest.raises(HeadError, match="no targets to learn"):
        make_head("ridge").fit(prepared.test)
    with pytest.raises(HeadError, match="featurize the slides again"):
        make_head("density").fit(replace(prepared.train, control_columns={}))
    assert resolve_heads(["knn", "ridge", "knn"]) == ("ridge", "knn")
    assert resolve_heads("all") == tuple(HEADS)
