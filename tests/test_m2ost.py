"""M2OST: token sets of growing fields, parameters block by block, its three mixings by hand."""

import numpy as np
import pytest
import torch

from tissuary.heads import make_head
from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.training import NetworkRun, TrainingOptions, loss_of
from tissuary.heads.networks.m2ost import CrossChannel, CrossLevel, IntraLevel
from tissuary.store.errors import HeadError
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one
from tissuary.tests.head_tables import made_up
from tissuary.tests.token_tables import FINE_GRIDS, GRIDS, shape_of, slide_scores, unseen_tokens, with_tokens


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def attended(q, k, v):
    product = q @ k.T / np.sqrt(q.shape[1])
    e = np.exp(product - product.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def applied(layer, x):
    bias = 0 if layer.bias is None else layer.bias.detach().numpy()
    return x @ layer.weight.detach().numpy().T + bias


def token_sets(lengths=(3, 4, 5), width=4):
    return [torch.randn(1, length, width) for length in lengths]


def test_tokens_are_49_98_and_114_of_fine_grids_and_49_of_coarse_ones():
    fine = make_head("m2ost", mode="paper")
    levels = fine.levels_of(dict.fromkeys(FINE_GRIDS, (196, 8)))
    assert fine.told(levels)["tokens"] == [49, 98, 114]
    assert fine.told(levels)["token_sets"] == "fine and coarse"
    module = fine.build(shape_of(FINE_GRIDS, 8, 5))
    assert [len(place) for place in module.places] == [50, 99, 115]  # and a class token each
    levels = fine.levels_of(dict.fromkeys(GRIDS, (49, 8)))
    assert fine.told(levels)["tokens"] == [49, 49, 49]
    assert fine.told(levels)["token_sets"] == "coarse only (no-DPE)"


def test_fine_tokens_show_the_middle_alone():
    module = make_head("m2ost", mode="paper").build(shape_of(FINE_GRIDS, 8, 5))
    x = [torch.randn(1, 196, 8) for _ in range(3)]
    before = module.sets(x)
    rim = torch.ones(14, 14, dtype=torch.bool)
    rim[3:11, 3:11] = False  # beyond the central half
    x[2][0, rim.flatten()] += torch.randn(8)
    after = module.sets(x)
    assert torch.equal(after[2][:, : 1 + 16 + 49], before[2][:, : 1 + 16 + 49])
    assert not torch.equal(after[2][:, 1 + 16 + 49 :], before[2][:, 1 + 16 + 49 :])
    assert torch.equal(after[0], before[0])


def test_parameters_block_by_block():
    d, genes, wide = 192, 250, 1024
    norm, square = 2 * d, d * d
    adapter = 2 * wide + wide * d + d + square + d + norm
    places, class_token, head = (50 + 99 + 115) * d, d, 3 * d * genes + genes
    feed = norm + d * 128 + 128 + 128 * d + d
    gate = 2 * 576 + 576 * 384 + 384 + 384 * 576 + 576
    paper = 3 * (norm + 4 * square + d) + feed + 3 * (norm + 4 * square + d) + 6 + gate
    code = 3 * (4 * square + d) + feed + 3 * (3 * square + 2 * square + d) + gate
    assert (adapter, places, head) == (236_288, 50_688, 144_250)
    shape = shape_of(FINE_GRIDS, wide, genes)
    for mode, block in (("paper", paper), ("code", code)):
        for depth in (2, 4):
            found = parameters(make_head("m2ost", mode=mode, depth=depth).build(shape))
            assert found == depth * block + adapter + places + class_token + norm + head
    # The published code also defines, and never applies, four norms a block: with them the page's 6,401,210.
    assert found + 4 * 4 * norm == 6_401_210
    assert 2 * (code + 4 * norm) + adapter + places + class_token + norm + head == 3_416_506


@pytest.mark.parametrize("paper", [True, False])
def test_each_level_attends_to_itself(paper):
    torch.manual_seed(0)
    layer, sets = IntraLevel(3, 4, heads=1, hidden=6, normed=paper), token_sets()
    for i, (x, found) in enumerate(zip(sets, layer(sets), strict=True)):
        own = x[0].numpy()
        q, k, v = np.split(applied(layer.to_all[i], normed(own) if paper else own), 3, axis=1)
        mixed = own + applied(layer.outs[i], attended(q, k, v))
        expected = mixed + layer.shared(torch.from_numpy(mixed).float()).detach().numpy()
        assert np.allclose(found[0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("mixer", ["paper", "code"])
def test_each_level_attends_to_the_others(mixer):
    torch.manual_seed(0)
    layer, sets = CrossLevel(3, 4, heads=1, mixer=mixer), token_sets()
    paper = mixer == "paper"
    if paper:
        layer.share.data = torch.tensor([[0.2, 0.7], [0.5, -0.1], [0.0, 1.0]])
    own = [x[0].numpy() for x in sets]
    q, k, v = zip(
        *(np.split(applied(layer.to_all[i], normed(x) if paper else x), 3, axis=1) for i, x in enumerate(own)),
        strict=True,
    )
    for i, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
        seen = attended(q[i], k[a], v[a]), attended(q[i], k[b], v[b])
        if paper:
            share = layer.share.detach().numpy()[i]
            expected = own[i] + applied(layer.outs[i], share[0] * seen[0] + share[1] * seen[1])
        else:
            expected = applied(layer.outs[i], np.concatenate(seen, axis=1))
        assert np.allclose(layer(sets)[i][0].detach(), expected, atol=1e-5)


def test_channels_are_scaled_by_a_gate_over_all_levels():
    torch.manual_seed(0)
    layer, sets = CrossChannel(3, 4, hidden=8), token_sets()
    means = np.concatenate([x[0].numpy().mean(0) for x in sets])
    hidden = torch.nn.functional.gelu(torch.from_numpy(applied(layer.gate[1], normed(means)))).numpy()
    gates = np.split(1 / (1 + np.exp(-applied(layer.gate[3], hidden))), 3)
    for x, gate, found in zip(sets, gates, layer(sets), strict=True):
        assert np.allclose(found[0].detach(), x[0].numpy() * (1 + gate), atol=1e-5)


def fitted(table, **options):
    """A head after a fit of one epoch, and the rows that its network sees."""
    head = make_head("m2ost", epochs=1, members=1, **options).fit(table)
    return head, RowData.of(table, head.columns(table), torch.device("cpu")).with_targets(table.targets)


@pytest.mark.parametrize("options", [{}, {"mode": "paper", "depth": 1}, {"mode": "code", "depth": 1}, {"levels": 2}])
def test_gradients_reach_every_parameter(options):
    head, data = fitted(with_tokens("A", spots=10), **options)
    module = head.build(head.shape_)
    loss_of(module, make_batch(data, np.arange(16)), pearson_weight=0.5).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_stacked_training_equals_one_by_one():
    head, data = fitted(with_tokens("AB", each=1, spots=30))

    def runs():
        for seed, rows in enumerate((np.arange(45), np.arange(10, 60))):  # padded to the larger
            torch.manual_seed(seed)
            yield NetworkRun(head.build(head.shape_), data, rows, TrainingOptions(epochs=2, batch=32), seed)

    assert_stacked_is_one_by_one(runs)


def test_it_learns_64_spots_by_heart():
    table = with_tokens("A", each=1, spots=64)
    head = make_head("m2ost", dropout=0.0, weight_decay=0.0, epochs=60, members=1).fit(table)
    assert slide_scores(head.predict(table), table).min() > 0.95


def test_mixing_two_levels_gains_over_the_best_of_them():
    train = with_tokens("ABCD", spots=40)
    test, bare = unseen_tokens("STUVWX", each=1, spots=60)
    scores = {
        levels: slide_scores(make_head("m2ost", levels=levels, epochs=10, members=1).fit(train).predict(bare), test)
        for levels in ("all", 0, 1)
    }
    gain = scores["all"] - np.maximum(scores[0], scores[1])  # per patient, against the better on that very patient
    assert gain.mean() - 2.57 * gain.std(ddof=1) / np.sqrt(len(gain)) > 0.05  # t of 5 degrees of freedom


def test_the_order_of_spots_is_no_matter_and_a_seed_gives_the_same_numbers():
    train = with_tokens("AB", each=1, spots=20, dim=6)
    _, bare = unseen_tokens("Z", each=1, spots=20, dim=6)
    options = {"epochs": 2, "members": 1, "reduce": 4}
    head = make_head("m2ost", **options).fit(train)
    found, order = head.predict(bare), np.random.default_rng(0).permutation(len(bare))
    assert np.allclose(head.predict(bare.select_rows(order)), found[order], atol=1e-5)
    assert np.array_equal(make_head("m2ost", **options).fit(train).predict(bare), found)
    assert not np.allclose(make_head("m2ost", **options, seed=1).fit(train).predict(bare), found)


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(
        HeadError, match=r"m2ost mixes tokens of two levels.*have none.*--backbone made-up --tokens 7x7`"
    ):
        make_head("m2ost").fit(made_up("AB"))
    with pytest.raises(HeadError, match="has no mode 'fixed': choose default, paper, code"):
        make_head("m2ost", mode="fixed")
