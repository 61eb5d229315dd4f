"""TRIPLEX on stored features: its parts by hand, what it must not notice, and that both modes learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.heads import make_head
from tissuary.heads.engine.batch import Around, Batch
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.predicting import blocks_of, predict_rows
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.stacked import train_all
from tissuary.heads.engine.training import NetworkRun, TrainingOptions
from tissuary.heads.networks.mmap.network import NeighbourAttention
from tissuary.heads.networks.triplex.head import window
from tissuary.heads.networks.triplex.network import OverSlide, ResidualTriplex, TriplexWidths, WindowBias
from tissuary.heads.networks.triplex.paper import PublishedTriplex
from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen

CPU = torch.device("cpu")


def shape(dim, genes):
    return NetworkShape(("made-up@20x",), ((dim,),), genes)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("size", "dim", "genes"), [(1024, 512, 250), (12, 32, 6)])
def test_parameters_of_the_published_network_block_by_block(size, dim, genes):
    d = dim
    adapters = 3 * (size * d + d)
    feed = 2 * d + (d * 2 * d + 2 * d) + (2 * d * d + d)
    layer = 2 * d + 3 * d * d + (d * d + d) + feed
    cross = 4 * d + d * d + 2 * d * d + (d * d + d) + feed
    outputs = 4 * (d * genes + genes)
    expected = adapters + 3 * layer + 81 * 8 + 25 * d + cross + 2 * d + outputs
    assert parameters(PublishedTriplex(shape(size, genes), dim=dim)) == expected


def test_parameters_of_this_projects_network():
    d, r, g, size = 128, 32, 250, 1024
    neighbours = parameters(NeighbourAttention(d))
    block = 2 * d + 3 * d * d + d * d + d + 2 * d + 2 * (d * 2 * d) + 3 * d
    expected = (size * d + d) + 2 * d + neighbours + block + 4 + 2 * d + (2 * d + d * d + d) + (d * r + r) + (r * g + g)
    module = ResidualTriplex(shape(size, g), TriplexWidths(), space=True, feature=False, slide=True)
    assert parameters(module) == expected


def test_relative_places_of_a_window():
    bias = WindowBias(2)
    with torch.no_grad():
        bias.table.copy_(torch.arange(81.0)[:, None] * torch.tensor([1.0, -1.0]))
    found = bias()[0]
    for i in range(25):
        for j in range(25):
            row, column = i // 5 - j // 5 + 4, i % 5 - j % 5 + 4
            assert found[0, i, j] == 9 * row + column == -found[1, i, j]


def batch_of(n, *, slides=1, dim=6, seed=0, k=0):
    g = torch.Generator().manual_seed(seed)
    slide = torch.arange(n) % slides
    member = (slide[None] == torch.arange(slides)[:, None]).float()
    around = None
    if k:
        mask = torch.rand(n, k, generator=g) < 0.7
        around = Around(
            torch.randint(0, n, (n, k), generator=g) * mask,
            mask,
            torch.randn(n, k, 2, generator=g) * 100 * mask[..., None],
            torch.rand(n, k, generator=g) * 100 * mask,
        )
    return Batch(
        x=(torch.randn(n, dim, generator=g),),
        rows=torch.arange(n),
        member=member,
        share=member.sum(1) / n,
        weight=torch.ones(n),
        place_um=torch.rand(n, 2, generator=g) * 3000,
        y=torch.randn(n, 3, generator=g),
        space=around,
    )


def test_attention_over_a_slide_is_its_definition():
    torch.manual_seed(0)
    layer, batch = OverSlide(8, heads=2, hidden=16).eval(), batch_of(7, slides=2, dim=8)
    x = batch.x[0]
    block = layer.block
    normed = torch.nn.functional.layer_norm(x, (8,))
    q, k, v = (normed @ block.to_all.weight.T).chunk(3, dim=1)
    out = torch.empty(7, 8)
    for h in range(2):
        at = slice(4 * h, 4 * h + 4)
        slope = torch.log1p(torch.exp(layer.slope[h]))
        for i in range(7):
            here = [j for j in range(7) if j % 2 == i % 2]
            away = torch.sqrt(((batch.place_um[i] - batch.place_um[here]) ** 2).sum(1) + 1) / 1000
            weights = torch.softmax(k[here, at] @ q[i, at] / 2 - slope * away, dim=0)
            out[i, at] = weights @ v[here, at]
    y = x + block.out(out)
    expected = y + block.feed(y)
    torch.testing.assert_close(layer(x, batch), expected, atol=1e-5, rtol=1e-4)


NETWORKS = {
    "default": lambda: ResidualTriplex(shape(6, 3), TriplexWidths(dim=16), space=True, feature=False, slide=True),
    "paper": lambda: PublishedTriplex(shape(6, 3), dim=16),
}


def made(name):
    torch.manual_seed(1)
    module = NETWORKS[name]()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.mark.parametrize("name", NETWORKS)
@settings(deadline=None, max_examples=4)
@given(st.integers(0, 1000))
def test_what_is_masked_and_the_order_of_spots_do_not_matter(name, seed):
    module, batch = made(name).eval(), batch_of(9, slides=2, seed=seed, k=25)
    before = module(batch)
    space = batch.space
    other = space.position.clone()
    other[~space.mask] = 5
    masked = batch._replace(
        space=space._replace(position=other, offset_um=space.offset_um + 50 * ~space.mask[..., None])
    )
    torch.testing.assert_close(module(masked), before, atol=1e-5, rtol=1e-4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    turned = batch._replace(
        rows=order,
        member=batch.member[:, order],
        weight=batch.weight[order],
        place_um=batch.place_um[order],
        y=batch.y[order],
        space=Around(*(part[order] for part in space)),
    )
    torch.testing.assert_close(module(turned), before[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_neither_predictions_nor_losses(name):
    module, batch = made(name).eval(), batch_of(8, slides=2, k=25)
    padded = batch._replace(
        rows=torch.cat([batch.rows, torch.zeros(3, dtype=torch.int64)]),
        member=torch.cat([batch.member, torch.zeros(2, 3)], dim=1),
        weight=torch.cat([batch.weight, torch.zeros(3)]),
        place_um=torch.cat([batch.place_um, torch.zeros(3, 2)]),
        y=torch.cat([batch.y, torch.zeros(3, 3)]),
        space=Around(*(torch.cat([part, torch.zeros(3, *part.shape[1:], dtype=part.dtype)]) for part in batch.space)),
    )
    one, two = module.step(batch), module.step(padded)
    torch.testing.assert_close(two.prediction[:8], one.prediction, atol=1e-5, rtol=1e-4)
    assert torch.isfinite(two.prediction).all()
    if one.extra is not None:
        torch.testing.assert_close(two.extra, one.extra, atol=1e-5, rtol=1e-4)


def test_losses_of_the_branches_are_their_definition():
    module, batch = made("paper").eval(), batch_of(6, slides=1, k=25)
    fused, branches = module.parts(batch)
    expected = sum(0.7 * ((b - batch.y) ** 2).mean() + 0.3 * ((fused - b) ** 2).mean() for b in branches)
    torch.testing.assert_close(module.step(batch).extra, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name):
    module, batch = made(name), batch_of(9, slides=2, k=25)
    step = module.step(batch)
    ((step.prediction - batch.y) ** 2).mean().backward()
    alone = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert alone == (
        {n for n, _ in module.named_parameters() if n.startswith("branches")} if name == "paper" else set()
    )
    if name == "paper":
        step = module.step(batch)
        step.extra.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_predictions_below_zero_are_cut_off_where_no_target_lies_there():
    table = made_up("AB", each=1)
    low = replace(table, targets=np.abs(table.targets))
    test = unseen(table)[1]
    assert make_head("triplex", mode="paper", dim=16, epochs=1).fit(table).predict(test).min() < 0
    assert make_head("triplex", mode="paper", dim=16, epochs=1).fit(low).predict(test).min() >= 0


def on_an_array(table, *, step_um=200.0):
    """The same table with every slide on a square array."""
    array = np.empty((len(table), 2), dtype=np.int32)
    for one in range(len(table.slide_ids)):
        here = np.flatnonzero(table.slide == one)
        array[here] = np.stack(np.divmod(np.arange(len(here)), 6), axis=1)
    return replace(table, array=array, center_um=array[:, ::-1] * step_um)


def test_the_window_is_the_array_around_a_spot():
    table = on_an_array(made_up("A", each=1, spots=36))
    found = window(table)
    middle = 2 * 6 + 3
    expected = [(row * 6 + column) for row in range(5) for column in range(1, 6)]
    assert found.index[middle].tolist() == expected
    assert found.mask[middle].all()
    corner = found.mask[0].reshape(5, 5)
    assert corner[2:, 2:].all()
    assert corner.sum() == 9
    bare = window(replace(table, array=None))
    assert bare.index[:, 0].tolist() == list(range(36))
    assert bare.index.shape == (36, 25)
    few = window(made_up("A", each=1, spots=4))
    assert few.mask.sum(1).tolist() == [4] * 4


@pytest.mark.parametrize("options", [{}, {"mode": "paper", "dim": 32}], ids=["default", "paper"])
def test_it_overfits_64_spots(options):
    table = on_an_array(made_up("A", each=1, spots=64, noise=1.0))
    head = make_head("triplex", epochs=55, members=1, dropout=0.0, seed=1, **options)
    head.training = TrainingOptions(lr=4e-3, weight_decay=0.0)
    fitted = within_slide_pearson(head.fit(table).predict(table), table.targets, table.slide)
    assert np.nanmean(fitted) > 0.95


@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_training_equals_one_by_one(name):
    table = on_an_array(made_up("AB", each=2, dim=6, genes=3, spots=20))
    data = RowData.of(table, tuple(table.columns.values()), CPU).with_targets(table.targets)
    data = replace(data, space=window(table))
    found = []
    for together in (True, False):
        runs = [
            NetworkRun(
                made(name), data, np.flatnonzero(table.slide != out), TrainingOptions(epochs=2, batch=16), seed=out
            )
            for out in range(2)
        ]
        losses = train_all(runs, together=together)
        found.append((losses, [predict_rows([run.module], data) for run in runs]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-3)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 25))
def test_a_slide_is_predicted_in_one_piece_where_it_fits(sizes, block):
    slide = np.repeat(np.arange(len(sizes)), sizes)
    cuts = blocks_of(slide, block)
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(len(slide)))
    assert max(cut.stop - cut.start for cut in cuts) <= block
    for one, size in enumerate(sizes):
        if size <= block:
            assert sum(one in slide[cut] for cut in cuts) == 1


@pytest.mark.parametrize("neighbours", ["off", "space", "feature", "both"])
def test_every_choice_of_neighbours_predicts_and_repeats(neighbours):
    table = made_up("ABC", each=1)
    test = unseen(table)[1]
    heads = [make_head("triplex", neighbours=neighbours, dim=16, epochs=1, members=1).fit(table) for _ in range(2)]
    np.testing.assert_array_equal(heads[0].predict(test), heads[1].predict(test))
    wanted = {"off": [], "space": ["space"], "feature": ["feature"], "both": ["space", "feature"]}[neighbours]
    assert list(heads[0].chosen_["branch_gates"]) == [*wanted, "slide"]


def test_shuffled_neighbours_and_an_anchor_change_the_prediction():
    table = made_up("ABC", each=1)
    test = unseen(table)[1]
    first, *others = (
        make_head("triplex", dim=16, epochs=1, members=1, **one).fit(table).predict(test)
        for one in ({}, {"shuffled": True}, {"anchor": "ridge"}, {"slide": False}, {"distillation": 0.5})
    )
    for other in others:
        assert np.abs(other - first).max() > 1e-4


def test_options_that_do_not_go_together_are_named():
    table = made_up("AB", each=1)
    with pytest.raises(HeadError, match="head 'triplex' has no mode 'papers': did you mean paper"):
        make_head("triplex", mode="papers").fit(table)
    with pytest.raises(HeadError, match="neighbours='both' is for mode default"):
        make_head("triplex", mode="paper", neighbours="both").fit(table)
