"""The ridge anchor: honest residuals, gates that noise does not open, and no peeking at what is held out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from tissuary.heads import make_head
from tissuary.heads.engine.anchor import choose_gates, cross_fit_groups, fit_anchor, quarters
from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.head import NeuralHead, as_unseen
from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.store.errors import HeadError
from tissuary.tests.engine_rows import Linear, every
from tissuary.tests.head_tables import made_up, unseen


class EGNLike(NeuralHead):
    """A head that asks for the targets of look-alikes."""

    expression = True

    def build(self, shape):
        return Linear(sum(shape.dims), shape.n_genes)


def score(prediction, test):
    return float(np.nanmean(within_slide_pearson(prediction, test.targets, test.slide)))


def bent(table):
    """The same table with a part of the targets that no linear map of the features gives."""
    x = table.features()
    extra = 2.0 * (np.abs(x[:, :1]) - np.abs(x[:, :1]).mean()) * np.ones((1, len(table.panel)))
    targets = table.targets + extra
    for one in np.unique(table.slide):
        targets[table.slide == one] -= targets[table.slide == one].mean(0)
    return replace(table, targets=targets.astype(np.float32))


@pytest.mark.parametrize(
    ("patients", "each", "rule", "groups"), [("ABCD", 2, "patients", 4), ("AB", 2, "slides", 4), ("A", 2, "blocks", 4)]
)
def test_cross_fitting_leaves_out_patients_else_slides_else_quarters(patients, each, rule, groups):
    table = made_up(patients, each=each)
    found, group = cross_fit_groups(table, np.arange(len(table)))
    assert (found, len(np.unique(group))) == (rule, groups)
    patient = np.array(table.patient_ids)[table.slide]
    for one in np.unique(group):
        if rule == "patients":
            assert len(set(patient[group == one])) == 1
        elif rule == "slides":
            assert len(set(table.slide[group == one])) == 1
        else:
            assert set(table.slide[group == one]) == {0, 1}


def test_quarters_lie_together_and_are_equal():
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    quarter = quarters(grid)
    assert np.bincount(quarter).tolist() == [6, 6, 6, 6]
    for one in range(4):
        part = grid[quarter == one]
        assert np.ptp(part, axis=0).tolist() == [2.0, 1.0]


def test_residuals_are_those_of_fits_without_the_patient():
    table = made_up()
    rows = np.flatnonzero(table.slide < 6)  # three patients
    anchor = fit_anchor(table, table.features(), rows, alpha=7.0)
    x, y, w = table.features()[rows], table.targets[rows], table.weights[rows]
    patient = np.array(table.patient_ids)[table.slide[rows]]
    for one in "ABC":
        held = patient == one
        theirs = SklearnRidge(alpha=7.0, solver="svd").fit(x[~held], y[~held], sample_weight=w[~held])
        np.testing.assert_allclose(anchor.held_out[held], theirs.predict(x[held]), atol=1e-5)
    every = SklearnRidge(alpha=7.0, solver="svd").fit(x, y, sample_weight=w)
    np.testing.assert_allclose(anchor.predict(x), every.predict(x), atol=1e-5)


def test_gates_keep_what_helps_and_shut_out_noise_and_harm():
    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(12), 200)
    truth = rng.normal(size=(2400, 4))
    base = truth + 2 * rng.normal(size=truth.shape)
    correction = rng.normal(size=truth.shape)
    correction[:, 0] = truth[:, 0] - base[:, 0]  # all that is missing
    correction[:, 1] = -truth[:, 1]
    correction[:, 2] = 2 * (truth[:, 2] - base[:, 2])  # overshoots: half of it is right
    patient = (slide // 2).astype(str)
    assert choose_gates(base, correction, truth, slide, patient=patient).tolist() == [1.0, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("defined", [12, 3, 2, 1])
def test_genes_that_few_slides_define_open_no_more_gates_than_others(defined):
    rng = np.random.default_rng(1)
    slide = np.repeat(np.arange(12), 30)
    truth = rng.normal(size=(360, 600))
    truth[slide >= defined] = 0.0
    base, noise = rng.normal(size=truth.shape), rng.normal(size=truth.shape)
    opened = (choose_gates(base, noise, truth, slide, patient=slide.astype(str)) > 0).mean()
    assert opened == 0 if defined < 3 else opened < 0.3


def test_an_anchored_head_starts_from_ridge_and_adds_what_ridge_cannot_say():
    table, (test, bare) = bent(made_up("ABCD", spots=60)), unseen(made_up(), spots=200)
    test = bent(test)
    ridge = make_head("ridge").fit(table).predict(bare)
    plain = make_head("mlp", anchor="ridge", epochs=0, members=1).fit(table)
    np.testing.assert_allclose(plain.predict(bare), ridge, atol=1e-5)
    anchored = make_head("mlp", anchor="ridge", members=1, epochs=20).fit(table)
    assert score(anchored.predict(bare), test) > score(ridge, test) + 0.05
    assert anchored.chosen_["cross_fit"] == "patients"
    assert sum(anchored.chosen_["gates"].values()) == pytest.approx(1.0)
    assert anchored.chosen_["gates"]["0.0"] < 0.5


def test_where_ridge_leaves_noise_the_anchor_gains_nothing_and_its_gates_keep_it_from_losing():
    table = made_up("ABCDEF", spots=60, genes=40, noise=4.0)
    test, bare = unseen(table, spots=400, noise=0.01)
    ridge = score(make_head("ridge").fit(table).predict(bare), test)
    head = make_head("mlp", anchor="ridge", members=1, epochs=10).fit(table)
    anchored = score(head.predict(bare), test)
    head.gate_ = np.ones(40)
    assert score(head.predict(bare), test) < ridge - 0.006  # what the network learnt of noise
    assert anchored == pytest.approx(ridge, abs=0.003)
    assert head.chosen_["gates"]["0.0"] > 0.7


def test_what_a_fold_holds_out_cannot_change_its_anchor():
    """Targets of patient D are spoilt beyond measure: penalty and residuals of a fold without D stay as they are."""
    table = made_up("ABCD")
    rows = np.flatnonzero(np.array(table.patient_ids)[table.slide] != "D")
    spoilt = table.targets.copy()
    spoilt[np.setdiff1d(np.arange(len(table)), rows)] *= 1e6
    one = fit_anchor(table, table.features(), rows)
    two = fit_anchor(replace(table, targets=spoilt), table.features(), rows)
    assert one.alpha == two.alpha == make_head("ridge").fit(table.select_slides(range(6))).alpha_
    np.testing.assert_array_equal(one.held_out, two.held_out)


def test_look_alikes_of_an_anchored_head_show_their_targets_and_not_residuals_that_know_the_query():
    table = made_up("ABCDEF", each=1, spots=50, dim=16, genes=40)
    noise = np.random.default_rng(0).normal(size=table.targets.shape).astype(np.float32)
    head = EGNLike(neighbours="feature", anchor="ridge", epochs=0, members=1).fit(replace(table, targets=noise))
    data = head._reference_rows
    shown = make_batch(as_unseen(data), every(data)).expression
    spread = head.spread_
    near = data.feature.index
    rows = torch.unique(torch.from_numpy(near[data.feature.mask]))
    np.testing.assert_allclose(shown[len(data) :].numpy() * spread, noise[rows], atol=1e-5)


def test_few_slides_take_half_of_the_correction():
    head = make_head("mlp", anchor="ridge", members=1, epochs=1).fit(made_up("AB", each=1))
    assert head.chosen_["gates"]["0.5"] == 1.0
    assert head.chosen_["cross_fit"] == "blocks"


def test_an_unknown_anchor_or_device_is_refused():
    with pytest.raises(HeadError, match="has no anchor 'lasso': choose ridge, None"):
        make_head("mlp", anchor="lasso").fit(made_up())
    with pytest.raises(HeadError, match="does not take device='tpu': choose auto, cpu, cuda"):
        make_head("mlp", device="tpu").fit(made_up())
