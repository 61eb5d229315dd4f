"""NH2ST as published: its parameters, its hypergraphs, its losses, and what a prediction depends on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.neighbours import in_tissue
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.training import NetworkRun
from tissuary.heads.networks.nh2st.head import NH2ST
from tissuary.heads.networks.nh2st.paper import (
    PUBLISHED,
    HypergraphConvolution,
    PublishedNetwork,
    StepwiseTraining,
    propagation,
    propagation_column,
    published_contrast,
)
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one
from tissuary.tests.head_tables import made_up, unseen, without_truth

GENES = 250


def built(dim, genes=GENES):
    return PublishedNetwork(NetworkShape(("view", "hypergraph"), ((dim,), (81,)), genes), contrast=1.0)


def count(module):
    return sum(p.numel() for p in module.parameters())


def fitted(table, **options):
    return NH2ST(mode="paper", **{"epochs": 1, **options}).fit(table)


def a_batch(table, rows, head=None):
    head = NH2ST(mode="paper") if head is None else head
    data = RowData.of(table, head.columns(table), torch.device("cpu")).with_targets(table.targets)
    return make_batch(replace(data, space=in_tissue(table, head.rule, seed=0)[0], expression=True), rows)


@pytest.mark.parametrize(
    ("dim", "millions", "inference"),
    [(512, 4.53, 0.458), (1024, 5.31, 0.720), (1280, 5.71, 0.851), (1536, 6.10, 0.983), (2560, 7.67, 1.507)],
)
def test_parameters_are_those_of_the_published_network(dim, millions, inference):
    module = built(dim)
    assert round(count(module) / 1e6, 2) == millions
    assert round(module.n_inference / 1e6, 3) == inference


def test_parameters_part_by_part():
    module = built(1536)
    assert module.n_inference == 982_522
    assert count(module) == 6_099_962
    parts = {
        "adapter": 1536 * 512 + 512,
        "hidden": 512 * 256 + 256,
        "genes": 256 * 250 + 250,
        "gene_encoder": 250 * 512 + 512 + 512 * 512 + 512,
        "image_graph": 1536 * 1024 + 1024 + 1024 * 512 + 512,
        "gene_graph": 512 * 1024 + 1024 + 1024 * 512 + 512,
        "fusion": 3 * 512 * 512 + 3 * (512 * 512 + 512) + 3 * 2 * 512,
    }
    assert {name: count(part) for name, part in module.named_children()} == parts


def by_hand(nodes, alike=3):
    """Node to edge to node, as loops: an edge is the mean of its nodes, a node the mean of its edges."""
    k = len(nodes)
    unit = nodes / np.linalg.norm(nodes, axis=1, keepdims=True)
    edges = [
        {e, *sorted((v for v in range(k) if v != e), key=lambda v, e=e: -(unit[e] @ unit[v]))[:alike]} for e in range(k)
    ]

    def spread(x):
        of_edge = [np.mean([x[v] for v in edge], axis=0) for edge in edges]
        return np.array([np.mean([of_edge[e] for e in range(k) if v in edges[e]], axis=0) for v in range(k)])

    return spread


def test_the_operator_spreads_nodes_over_hyperedges():
    rng = np.random.default_rng(0)
    nodes, x = rng.normal(size=(4, 9, 20)), rng.normal(size=(4, 9, 5))
    found = propagation(nodes, np.ones((4, 9), dtype=bool))
    assert found.shape == (4, 9, 9)
    np.testing.assert_allclose(found.sum(2), 1.0, rtol=1e-6)
    for i in range(4):
        np.testing.assert_allclose(found[i] @ x[i], by_hand(nodes[i])(x[i]), atol=1e-6)


def test_a_hypergraph_convolution_is_p_x_theta_plus_b():
    rng = np.random.default_rng(1)
    nodes = rng.normal(size=(1, 9, 6))
    layer = HypergraphConvolution(6, 4)
    with torch.no_grad():
        layer.bias.normal_()
    operator = torch.from_numpy(propagation(nodes, np.ones((1, 9), dtype=bool)))
    x = torch.from_numpy(nodes).float()
    wanted = by_hand(nodes[0])(nodes[0]) @ layer.theta.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x, operator)[0].detach(), wanted, atol=1e-5)
    position = torch.tensor([[3, 1, 2, 0, 8, 7, 6, 5, 4]])
    torch.testing.assert_close(layer(x[0], operator, position=position), layer(x[:, position[0]], operator))


@pytest.mark.parametrize("present", [1, 2, 6])
def test_missing_nodes_leave_the_operator_of_the_others(present):
    rng = np.random.default_rng(2)
    nodes, mask = rng.normal(size=(1, 9, 7)), np.zeros((1, 9), dtype=bool)
    mask[0, :present] = True
    found = propagation(nodes, mask)[0]
    x = rng.normal(size=(present, 2))
    np.testing.assert_allclose(found[:present, :present] @ x, by_hand(nodes[0, :present])(x), atol=1e-6)
    assert not found[present:].any() and not found[:, present:].any()


def test_operators_are_found_by_slide_and_row():
    table = made_up(spots=20)
    kept = np.flatnonzero(np.arange(len(table)) % 3 != 0)  # rows of the files with gaps between them
    some, head = table.select_rows(kept), NH2ST(mode="paper")
    found = in_tissue(some, head.rule, seed=0)[0]
    column = propagation_column(some, found)
    x = some.features()
    got = column.gather(some.slide, some.row).reshape(-1, 9, 9)
    for row in (0, 50, len(some) - 1):
        np.testing.assert_allclose(got[row], propagation(x[found.index[row]][None], found.mask[row][None])[0])
    np.testing.assert_array_equal(found.index[:, 0], np.arange(len(some)))


@pytest.mark.parametrize(("cosine", "loss"), [(1.0, 1.07e-7), (0.5, 8.6e-4), (0.3, 0.0312)])
def test_the_published_contrast_collapses(cosine, loss):
    image = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(8, 2)
    genes = torch.tensor([[cosine, np.sqrt(1 - cosine**2)]], dtype=torch.float64).expand(8, 2)
    found = float(published_contrast(image, genes, temperature=0.05))
    assert found == pytest.approx(loss, rel=0.02)
    assert found == pytest.approx(np.log1p(7 * np.exp(-0.9 * cosine / 0.05)))


def test_groups_are_contrasted_apart_and_padding_not_at_all():
    torch.manual_seed(0)
    image, genes = torch.randn(2, 12, 6, dtype=torch.float64)
    group = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1, -1])
    apart = [published_contrast(image[group == g], genes[group == g], temperature=0.05) for g in (0, 1)]
    together = published_contrast(image, genes, temperature=0.05, group=group)
    torch.testing.assert_close(together, (apart[0] + apart[1]) / 2)


def test_a_prediction_is_an_affine_function_of_the_spot_alone():
    table = made_up("AB", each=1, spots=12)
    head, (_, bare) = fitted(table), unseen(table, spots=30)
    x, before = bare.features(), head.predict(bare)

    def predict(values):
        return head.predict(replace(bare, columns={"made-up@20x": FeatureColumn("made-up@20x", "none", (values,))}))

    others = x.copy()
    others[1:] += np.random.default_rng(0).normal(size=others[1:].shape).astype(np.float32)
    np.testing.assert_allclose(predict(others)[0], before[0], atol=1e-5)
    np.testing.assert_allclose(predict((x + others) / 2), (before + predict(others)) / 2, atol=1e-4)


def test_gradients_reach_all_but_query_and_key_of_the_attention_over_one_key():
    table = made_up(spots=20)
    torch.manual_seed(0)
    module = PublishedNetwork(NetworkShape(("v", "hypergraph"), ((12,), (81,)), 6), contrast=1.0).train()
    step = module.step(a_batch(table, np.arange(40)))
    (step.prediction.square().mean() + step.extra).backward()
    largest = {name: float(p.grad.abs().max()) for name, p in module.named_parameters()}
    still = {"fusion.to_query.weight", "fusion.to_key.weight"}
    assert {name for name, value in largest.items() if value < 1e-8} == still, largest


def test_the_contrast_of_neighbourhoods_sends_nothing_to_what_predicts():
    table = made_up(spots=20)
    torch.manual_seed(0)
    module = PublishedNetwork(NetworkShape(("v", "hypergraph"), ((12,), (81,)), 6), contrast=1.0).eval()
    batch = a_batch(table, np.arange(16))
    module.step(batch).extra.backward()
    path = [p for part in (module.adapter, module.hidden, module.genes) for p in part.parameters()]
    before = [None if p.grad is None else p.grad.clone() for p in path]
    module.zero_grad()
    other = torch.from_numpy(np.random.default_rng(0).permutation(len(batch.x[0])))
    moved = batch._replace(space=batch.space._replace(position=other[batch.space.position]))
    module.step(moved).extra.backward()  # other neighbours
    for p, was in zip(path, before, strict=True):
        assert (p.grad is None and was is None) or torch.equal(p.grad, was)


def test_the_rate_falls_by_a_tenth_at_every_quarter():
    rates = [PUBLISHED.rate(step, 200) for step in (0, 49, 50, 100, 150, 199, 203)]
    np.testing.assert_allclose(rates, 5e-4 * 0.9 ** np.array([0, 0, 1, 2, 3, 3, 3]))
    assert isinstance(replace(PUBLISHED, epochs=3), StepwiseTraining)


def test_stacked_training_is_one_by_one():
    table, head = made_up("ABC", each=1, spots=12), NH2ST(mode="paper")
    data = RowData.of(table, head.columns(table), torch.device("cpu")).with_targets(table.targets)
    data = replace(data, space=in_tissue(table, head.rule, seed=0)[0], expression=True)
    shape = NetworkShape(("v", "hypergraph"), ((12,), (81,)), 6)

    def runs():
        out = []
        for seed, rows in ((0, np.arange(len(table))), (1, np.flatnonzero(table.slide != 2))):
            torch.manual_seed(seed)
            out.append(NetworkRun(head.build(shape), data, rows, replace(head.training, epochs=1), seed))
        return out

    assert_stacked_is_one_by_one(runs)


def test_the_published_mode_learns_from_every_spot_alike():
    table = made_up("AB", each=1, spots=24)
    alike = replace(table, weights=np.ones(len(table), dtype=np.float32))
    head = fitted(table, epochs=12)
    predicted = head.predict(without_truth(table))
    assert np.corrcoef(predicted.ravel(), table.targets.ravel())[0, 1] > 0.6
    assert (len(head.modules_), head.contrast) == (1, 1.0)
    one, other = (fitted(t).predict(without_truth(table)) for t in (table, alike))
    np.testing.assert_array_equal(one, other)


def test_it_trains_without_its_contrast():
    table, (_, bare) = made_up(each=1), unseen(made_up())
    head = NH2ST(mode="paper", contrast=0, epochs=1).fit(table)
    assert np.isfinite(head.predict(bare)).all()
