"""Neighbours of the engine: who they are, how a step holds them, and that no look-alike is of the query's patient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import nn

from tissuary.heads.engine import rows as engine_rows_module
from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.head import NeuralHead, as_unseen
from tissuary.heads.engine.neighbours import NeighbourRule, in_tissue, look_alikes
from tissuary.heads.engine.network import HeadModule
from tissuary.heads.engine.predicting import predict_rows
from tissuary.heads.engine.rows import RowFeatures
from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.store.errors import HeadError
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import row_data
from tissuary.tests.head_tables import made_up, unseen

RULE = NeighbourRule(edges_um=(0.0, 2000.0, 4000.0), per_ring=3, look_alikes=4)


def with_neighbours(table, train=None, **rule):
    train = np.arange(len(table)) if train is None else train
    chosen = replace(RULE, **rule)
    found = look_alikes(table, chosen, train=train, vectors=table.features(), seed=0)
    space, donor = in_tissue(table, chosen, seed=0)
    return replace(row_data(table), space=space, donor=donor, feature=found, expression=True)


def test_a_step_holds_every_row_once_and_finds_all_neighbours_in_it():
    table = made_up()
    data = with_neighbours(table)
    rows = np.array([5, 0, 77, 200])
    batch = make_batch(data, rows)
    x = table.features()
    np.testing.assert_array_equal(batch.own[0].numpy(), x[rows])
    assert len(torch.unique(batch.x[0], dim=0)) == len(batch.x[0])
    for found, around in ((data.space, batch.space), (data.feature, batch.feature)):
        np.testing.assert_array_equal(around.mask.numpy(), found.mask[rows])
        for i, row in enumerate(rows):
            for j in np.flatnonzero(found.mask[row]):
                np.testing.assert_array_equal(batch.x[0][around.position[i, j]].numpy(), x[found.index[row, j]])
                np.testing.assert_array_equal(
                    batch.expression[around.position[i, j]].numpy(), table.targets[found.index[row, j]]
                )
    offsets = batch.space.offset_um.numpy()
    wanted = table.center_um[data.space.index[rows]] - table.center_um[rows][:, None]
    np.testing.assert_allclose(offsets[data.space.mask[rows]], wanted[data.space.mask[rows]], atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=2), batch.space.distance.numpy(), rtol=1e-4, atol=1e-2)


def test_the_nearest_rule_puts_the_row_itself_first():
    table = made_up()
    found, _ = in_tissue(table, NeighbourRule(nearest=9), seed=0)
    here = np.flatnonzero(table.slide == 3)
    near = here[cKDTree(table.center_um[here]).query(table.center_um[here], 9)[1]]
    np.testing.assert_array_equal(found.index[here], near)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(len(table)))


def test_look_alikes_are_the_nearest_cosines_among_other_patients_training_rows():
    table = made_up()
    train = np.flatnonzero(table.slide != 7)
    found = look_alikes(table, RULE, train=train, vectors=table.features(), seed=0)
    x = table.features() / np.linalg.norm(table.features(), axis=1, keepdims=True)
    patient = np.array(table.patient_ids)[table.slide]
    cosine = np.where((patient[:, None] == patient[None]) | (table.slide == 7)[None], -2.0, x @ x.T)
    np.testing.assert_array_equal(found.index, np.argsort(-cosine, axis=1, kind="stable")[:, :4])


def test_with_one_patient_look_alikes_come_from_other_slides():
    table = made_up("A", each=3)
    found = look_alikes(table, RULE, train=np.arange(len(table)), vectors=table.features(), seed=0)
    assert found.mask.all()
    assert (table.slide[found.index] != table.slide[:, None]).all()


def test_shuffled_neighbours_are_those_of_another_row_of_the_slide():
    table = made_up()
    (plain, _), (mixed, donor) = (in_tissue(table, replace(RULE, shuffled=s), seed=1) for s in (False, True))
    moved = (plain.index != mixed.index).any(1)
    assert moved.mean() > 0.9
    np.testing.assert_array_equal(table.slide[mixed.index[mixed.mask]], np.repeat(table.slide, mixed.mask.sum(1)))
    np.testing.assert_array_equal(mixed.index, plain.index[donor])
    around = make_batch(with_neighbours(table, shuffled=True), np.arange(40)).space
    np.testing.assert_allclose(around.offset_um.norm(dim=2).numpy(), around.distance.numpy(), atol=1e-2)
    for one in np.unique(table.slide):
        here = table.slide == one
        assert sorted(map(tuple, plain.index[here])) == sorted(map(tuple, mixed.index[here]))


class Copying(HeadModule):
    """Predicts the mean expression of look-alikes: what a head that copies would do best."""

    def __init__(self, genes):
        super().__init__()
        self.genes = nn.Linear(genes, genes)
        with torch.no_grad():
            self.genes.weight.copy_(torch.eye(genes))
            self.genes.bias.zero_()

    def forward(self, batch):
        around = batch.feature
        seen = batch.expression[around.position] * around.mask[..., None]  # (b, k, g)
        return self.genes(seen.sum(1) / around.mask.sum(1, keepdim=True).clamp_min(1))


class CopyingHead(NeuralHead):
    expression = True

    def build(self, shape):
        return Copying(shape.n_genes)


def test_an_answer_planted_in_twins_of_the_same_patient_is_not_copied():
    """Twins share features and noise, on two slides of a patient: who sees them would reach a correlation of 1."""
    table = made_up("ABCDEF", each=2, spots=40)
    x, y = table.features(), np.random.default_rng(0).normal(size=table.targets.shape).astype(np.float32)
    first = np.flatnonzero(table.slide % 2 == 0)
    for one in np.unique(table.slide[first]):
        mine = np.flatnonzero(table.slide == one)
        theirs = np.flatnonzero(table.slide == one + 1)[: len(mine)]
        x[theirs], y[theirs] = x[mine], y[mine]
    parts = tuple(x[table.slide == one] for one in range(len(table.slide_ids)))
    twins = replace(table, columns={"t@20x": FeatureColumn("t@20x", "none", parts)}, targets=y)
    head = CopyingHead(neighbours="feature", rule=replace(RULE, look_alikes=1), epochs=1, members=1).fit(twins)
    with_training = predict_rows(head.modules_, as_unseen(head._reference_rows))
    assert abs(np.nanmean(within_slide_pearson(with_training, y, twins.slide))) < 0.1
    found = look_alikes(twins, RULE, train=np.arange(len(twins)), vectors=x, seed=0)
    patient = np.array(twins.patient_ids)[twins.slide]
    assert (patient[found.index] != patient[:, None]).all()


def test_look_alikes_of_unseen_rows_show_training_expression_and_never_their_own():
    table, (_, bare) = made_up(noise=0.0, dim=3), unseen(made_up(dim=3), dim=3, spots=60, noise=0.0)
    rule = replace(RULE, look_alikes=5)
    head = CopyingHead(neighbours="feature", rule=rule, epochs=0, members=1).fit(table)
    x, z = table.features(), bare.features()
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    nearest = np.argsort(-(unit(z) @ unit(x).T), axis=1)[:, :5]
    np.testing.assert_allclose(head.predict(bare), table.targets[nearest].mean(1), atol=1e-4)
    batch = make_batch(as_unseen(head._reference_rows), np.arange(10))
    assert batch.y is None
    assert not batch.expression[batch.rows].any()


def test_features_that_stream_are_those_that_stay(monkeypatch):
    table = made_up()
    rows = np.array([4, 90, 4, 7])
    resident = RowFeatures.of(table, tuple(table.columns.values()), torch.device("cpu"))
    monkeypatch.setattr(engine_rows_module, "RESIDENT_SHARE", 0.0)
    streaming = RowFeatures.of(table, tuple(table.columns.values()), torch.device("cpu"))
    assert (resident.resident is None, streaming.resident is None) == (False, True)
    np.testing.assert_array_equal(resident.take(rows)[0].numpy(), streaming.take(rows)[0].numpy())


def test_blocks_of_prediction_change_nothing():
    data = with_neighbours(made_up())
    module = Copying(6).eval()
    whole = predict_rows([module], data)
    np.testing.assert_allclose(predict_rows([module], data, block=7), whole, atol=1e-6)
    some = np.array([50, 3, 99])
    np.testing.assert_allclose(predict_rows([module], data, rows=some), whole[some], atol=1e-6)


def test_an_unknown_kind_of_neighbours_is_refused():
    with pytest.raises(HeadError, match="neighbours='near': choose off, space, feature, both"):
        CopyingHead(neighbours="near").fit(made_up())
