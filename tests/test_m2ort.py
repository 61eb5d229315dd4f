"""M2ORT: parameter counts of the paper, its two attentions by hand, alignment, and what level mixing gains."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads import make_head
from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.training import NetworkRun, TrainingOptions, loss_of
from tissuary.heads.networks.m2ort import LevelAttention, MixerSize, SliceAttention
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.saving.save import save_head
from tissuary.heads.saving.saved import load_head
from tissuary.store.errors import HeadError
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one
from tissuary.tests.head_tables import made_up
from tissuary.tests.token_tables import GRIDS, TILES, shape_of, slide_scores, unseen_tokens, with_tokens

SMALL = MixerSize(width=4, depth=1, heads=3, head_dim=2, hidden=8)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attended(q, k, v, heads):
    """Multi-head attention of (t, d) arrays, head by head."""
    parts = [np.split(x, heads, axis=1) for x in (q, k, v)]
    return np.concatenate([softmax(a @ b.T / np.sqrt(a.shape[1])) @ c for a, b, c in zip(*parts, strict=True)], axis=1)


def normed(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def weight(layer):
    return layer.weight.detach().numpy()


@pytest.mark.parametrize(("size", "count"), [("tiny", 1_554_810), ("small", 7_542_202), ("base", 16_994_810)])
def test_published_sizes_have_their_parameters(size, count):
    shape = shape_of(TILES | {"toy@5x": 0}, 1024, 250)
    assert parameters(make_head("m2ort", mode="paper", size=size, grid=7).build(shape)) == count
    assert parameters(make_head("m2ort", mode="paper", size=size).build(shape_of(GRIDS, 1024, 250))) == count


def test_the_code_takes_query_key_and_value_from_the_three_levels():
    torch.manual_seed(0)
    layer, x = SliceAttention(3, SMALL), torch.randn(1, 5, 12)
    first, second, third = np.split(normed(x[0].numpy()), 3, axis=1)
    q, k, v = first @ weight(layer.to_query).T, second @ weight(layer.to_keys).T, third @ weight(layer.to_values).T
    expected = attended(q, k, v, 3) @ weight(layer.out).T + layer.out.bias.detach().numpy()
    assert np.allclose(layer(x)[0].detach(), expected, atol=1e-5)


def test_intra_level_attention_is_one_attention_for_each_level():
    torch.manual_seed(0)
    layer, x = LevelAttention(3, SMALL), torch.randn(1, 5, 12)
    parts = []
    for i, part in enumerate(np.split(x[0].numpy(), 3, axis=1)):
        q, k, v = np.split(normed(part) @ weight(layer.to_all[i]).T, 3, axis=1)
        parts.append(attended(q, k, v, 1) @ weight(layer.outs[i]).T + layer.outs[i].bias.detach().numpy())
    assert np.allclose(layer(x)[0].detach(), np.concatenate(parts, axis=1), atol=1e-5)
    other = x.clone()
    other[..., 4:8] += 1.0 + torch.rand(5, 4)  # the second level
    assert torch.equal(layer(other)[..., :4], layer(x)[..., :4])
    assert not torch.allclose(layer(other)[..., 4:8], layer(x)[..., 4:8])


def test_token_n_shows_the_same_tissue_at_every_level():
    """Sub-tile (1, 2) of 4 x 4 lies in (0, 1) of 2 x 2: changing one changes the channels of the cells it covers."""
    head = make_head("m2ort", mode="paper")
    module = head.build(shape_of(TILES | {"toy@5x": 0}, 8, 5))
    width, x = 128, [torch.randn(1, 16, 8), torch.randn(1, 4, 8), torch.randn(1, 8)]
    before = module.tokens(x)
    assert before.shape == (1, 17, 3 * width)
    for level, cell, covered in ((0, 6, [6]), (1, 1, [2, 3, 6, 7]), (2, None, list(range(16)))):
        other = [part.clone() for part in x]
        if cell is None:
            other[level] += torch.randn(8)
        else:
            other[level][0, cell] += torch.randn(8)
        changed = (module.tokens(other) != before)[0, 1:].view(16, 3, width).any(-1)
        assert torch.nonzero(changed[:, level]).flatten().tolist() == covered
        assert not changed[:, [i for i in range(3) if i != level]].any()


def test_grids_are_cropped_to_the_field_that_all_levels_show():
    head = make_head("m2ort", mode="paper", grid=7)
    module = head.build(shape_of(GRIDS, 8, 5))
    x = [torch.randn(1, 49, 8) for _ in range(3)]
    before = module.tokens(x)
    rim = torch.ones(7, 7, dtype=torch.bool)
    rim[2:5, 2:5] = False  # 5x shows 448 um: 112 um in its middle are 1.75 cells wide
    x[2][0, rim.flatten()] += 5.0
    assert torch.equal(module.tokens(x), before)
    x[2][0, 24] += torch.randn(8)
    assert not torch.equal(module.tokens(x), before)


@pytest.mark.parametrize("options", [{}, {"attention": "code"}, {"mode": "paper"}, {"levels": 1}, {"vectors": False}])
def test_gradients_reach_every_parameter(options):
    head = make_head("m2ort", **options)
    table = with_tokens("A", spots=12)
    data = RowData.of(table, _fitted(head, table), torch.device("cpu")).with_targets(table.targets)
    module = head.build(NetworkShape(head.keys_, tuple(c.row_shape for c in head.columns(table)), 6))
    loss_of(module, make_batch(data, np.arange(20)), pearson_weight=0.5).backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def _fitted(head, table):
    """Columns of a head after the shortest of fits."""
    head.epochs, head.members = 1, 1
    return head.fit(table).columns(table)


def test_stacked_training_equals_one_by_one():
    head, table = make_head("m2ort"), with_tokens("AB", each=1, spots=30)
    data = RowData.of(table, _fitted(head, table), torch.device("cpu")).with_targets(table.targets)

    def runs():
        for seed, rows in enumerate((np.arange(45), np.arange(10, 60))):  # padded to the larger
            torch.manual_seed(seed)
            yield NetworkRun(head.build(head.shape_), data, rows, TrainingOptions(epochs=2, batch=32), seed)

    assert_stacked_is_one_by_one(runs)


def test_it_learns_64_spots_by_heart():
    table = with_tokens("A", each=1, spots=64)
    head = make_head("m2ort", dropout=0.0, weight_decay=0.0, epochs=60, members=1).fit(table)
    assert slide_scores(head.predict(table), table).min() > 0.95


def test_mixing_two_levels_gains_over_the_best_of_them():
    train = with_tokens("ABCD", spots=40)
    test, bare = unseen_tokens("STUVWX", each=1, spots=60)
    options = {"epochs": 10, "members": 1, "layout": "grid", "grid": 3}
    scores = {
        levels: slide_scores(make_head("m2ort", levels=levels, **options).fit(train).predict(bare), test)
        for levels in ("all", 0, 1)
    }
    gain = scores["all"] - np.maximum(scores[0], scores[1])  # per patient, against the better on that very patient
    assert gain.mean() - 2.57 * gain.std(ddof=1) / np.sqrt(len(gain)) > 0.05  # t of 5 degrees of freedom
    third = slide_scores(make_head("m2ort", levels=2, **options).fit(train).predict(bare), test)
    assert abs(third.mean()) < 0.15  # the level without signal


def test_the_order_of_spots_is_no_matter_and_a_seed_gives_the_same_numbers(tmp_path):
    train = with_tokens("AB", spots=20, dim=6)
    _, bare = unseen_tokens("Z", spots=20, dim=6)
    options = {"epochs": 2, "members": 1, "reduce": 4, "layout": "grid"}
    head = make_head("m2ort", **options).fit(train)
    found = head.predict(bare)
    order = np.random.default_rng(0).permutation(len(bare))
    assert np.allclose(head.predict(bare.select_rows(order)), found[order], atol=1e-5)
    assert np.array_equal(make_head("m2ort", **options).fit(train).predict(bare), found)
    assert not np.allclose(make_head("m2ort", **options, seed=1).fit(train).predict(bare), found)
    assert head.chosen_["levels"] == list(GRIDS)
    save_head(head, tmp_path / "saved", table=train, protocol=get_protocol("strict"))
    assert np.array_equal(load_head(tmp_path / "saved").head.predict(bare), found)


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(
        HeadError, match=r"m2ort mixes tokens of two levels.*have none.*--layout aligned`, or .*--tokens 7x7`"
    ):
        make_head("m2ort").fit(made_up("AB"))
    for option, message in (
        ({"mode": "code"}, "has no mode 'code': choose default, paper"),
        ({"size": "huge"}, "has no size 'huge': choose nano, tiny, small, base, large"),
        ({"attention": "none"}, "has no attention 'none': choose code, intra, None"),
    ):
        with pytest.raises(HeadError, match=message):
            make_head("m2ort", **option)
    head = make_head("m2ort", epochs=1, members=1).fit(with_tokens("A", spots=8))
    bare = replace(with_tokens("Z", spots=8), token_columns={})
    with pytest.raises(HeadError, match=r"the table lacks toy@20x.grid7x7, toy@10x.grid7x7, toy@5x.grid7x7"):
        head.predict(bare)
