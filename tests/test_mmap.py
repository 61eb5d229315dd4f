"""MMAP's default mode: any number of views, neighbours that are masked, gated or shuffled, prototypes of the cohort."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads import make_head
from tissuary.heads.engine.batch import Around, make_batch
from tissuary.heads.engine.neighbours import NeighbourRule, in_tissue, look_alikes
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.training import NetworkRun, TrainingOptions
from tissuary.heads.networks.mmap.network import MultiViewPrototypes, NeighbourAttention, Widths, finest_view
from tissuary.heads.networks.mmap.prototypes import cohort_prototypes
from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.heads.protocols.targets import centre_by_slide
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one, every, row_data, shape_of
from tissuary.tests.head_tables import made_up, unseen, without_truth

SMALL = Widths(dim=16, rank=4, prototypes=5)


def with_views(table, *keys):
    """The table with its features dealt out to several views."""
    parts = table.columns["made-up@20x"].parts
    cuts = np.array_split(np.arange(parts[0].shape[1]), len(keys))
    columns = [FeatureColumn(key, "none", tuple(p[:, cut] for p in parts)) for key, cut in zip(keys, cuts, strict=True)]
    return replace(table, columns={column.key: column for column in columns})


def rows_with_neighbours(table):
    """Rows that see neighbours of both kinds."""
    rule = NeighbourRule(per_ring=4, look_alikes=3)
    data = replace(row_data(table), space=in_tissue(table, rule, seed=0)[0], expression=True)
    found = look_alikes(table, rule, train=every(data), vectors=table.features(), seed=0)
    return replace(data, feature=found)


def network(table, *, seed=0, **options):
    torch.manual_seed(seed)
    module = MultiViewPrototypes(shape_of(table), SMALL, **options).eval()
    with torch.no_grad():  # as after training: the gate is open, and views are attended to
        module.over_views.out.weight.normal_()
        module.gate.fill_(0.5)
        module.prototypes.normal_()
    return module


@pytest.mark.parametrize(
    ("keys", "finest"),
    [
        (("a@5x", "a@20x", "a@10x"), 1),
        (("a@112um-0.5", "a@56um-0.25", "a@28um-0.125"), 2),  # the zoom layout: the smallest field
        (("a.cls@20x", "b@20x"), 0),
        (("a@20x", "a@native"), 1),
    ],
)
def test_the_query_is_the_view_of_fewest_um_per_px(keys, finest):
    assert finest_view(keys) == finest


def test_views_are_fused_from_the_query_as_torchs_own_attention_does():
    torch.manual_seed(0)
    module = MultiViewPrototypes(NetworkShape(("a@5x", "a@20x"), ((3,), (4,)), 2), SMALL).eval()
    x = (torch.randn(7, 3), torch.randn(7, 4))
    views = torch.stack([module.adapters[0](x[0]), module.adapters[1](x[1])], dim=1)
    a = module.over_views
    torch.testing.assert_close(module.fuse(x), views.mean(1))  # attention comes in by learning
    torch.nn.init.normal_(a.out.weight)
    theirs = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([a.to_query.weight, a.to_keys.weight]))
        theirs.out_proj.weight.copy_(a.out.weight)
    normed = torch.nn.functional.layer_norm(views, (16,))
    expected = views.mean(1) + theirs(normed[:, 1:], normed, normed, need_weights=False)[0][:, 0] + a.out.bias
    torch.testing.assert_close(module.fuse(x), expected, atol=1e-5, rtol=1e-5)


def test_masked_neighbours_change_nothing_and_a_row_without_any_gets_nothing():
    torch.manual_seed(0)
    branch = NeighbourAttention(8, genes=3).eval()
    rows, expression = torch.randn(9, 8), torch.randn(9, 3)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    position, offset, distance = torch.tensor([[4, 5, 6], [7, 8, 1]]), torch.randn(2, 3, 2), torch.rand(2, 3)
    found = branch(rows[:2], rows, Around(position, mask, offset, distance), expression=expression)
    moved = Around(position * mask, mask, offset + 9 * ~mask[..., None], distance + 9 * ~mask)
    torch.testing.assert_close(branch(rows[:2], rows, moved, expression=expression), found)
    fewer = Around(position[:1, :2], mask[:1, :2], offset[:1, :2], distance[:1, :2])
    torch.testing.assert_close(branch(rows[:1], rows, fewer, expression=expression), found[:1])
    assert found[1].tolist() == [0.0] * 8
    assert (branch(rows[:2], rows, moved, expression=expression + 1) - found)[0].abs().max() > 1e-3


def test_predictions_follow_the_order_of_spots():
    table = made_up("ABC", each=1, spots=25, dim=6, genes=4)
    module = network(table, space=True, feature=True)
    shuffled = np.random.default_rng(0).permutation(len(table))
    out = []
    for one in (table, table.select_rows(shuffled)):
        with torch.no_grad():
            out.append(module(make_batch(rows_with_neighbours(one), np.arange(len(one)))))
    torch.testing.assert_close(out[1], out[0][shuffled], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter():
    table = with_views(made_up("ABC", each=1, spots=25, dim=6, genes=4), "a@20x", "a@5x")
    module = network(table, space=True, feature=True)
    module(make_batch(rows_with_neighbours(table), np.arange(30))).square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_stacked_training_is_one_by_one():
    table = made_up("ABC", each=1, spots=25, dim=6, genes=4)
    data = rows_with_neighbours(table)

    def runs():
        modules = [network(table, seed=seed, space=True, feature=True) for seed in (0, 1)]
        options = TrainingOptions(epochs=4, batch=20)
        return [NetworkRun(module, data, np.arange(60 + 8 * i), options, i) for i, module in enumerate(modules)]

    assert_stacked_is_one_by_one(runs)


def test_prototypes_start_at_slide_centred_centres_and_know_no_slide():
    rng = np.random.default_rng(0)
    slide = np.repeat([0, 1, 2], 40)
    kind = np.tile([-1.0, 1.0], 60)[:, None]
    values = (kind + 0.01 * rng.normal(size=(120, 3)) + 50.0 * slide[:, None]).astype(np.float32)
    centres = cohort_prototypes(values, slide, 2, seed=0)
    np.testing.assert_allclose(np.sort(centres[:, 0]), [-1, 1], atol=0.02)
    table = made_up("AB", each=1, spots=12, dim=4, genes=3)
    head = make_head("mmap", epochs=1, members=1, prototypes=32).fit(table)
    assert head.modules_[0].prototypes.shape == (32, 128)  # 25 rows have at most 25 centres; the rest start at zero
    assert 0 < head.chosen_["prototype_gate"] < 0.1
    assert not hasattr(make_head("mmap", epochs=1, members=1, prototypes=0).fit(table).modules_[0], "prototypes")


@pytest.mark.parametrize(
    "keys", [("a@20x",), ("a@112um-0.5", "a@56um-0.25", "a@28um-0.125"), ("a@20x", "a@10x", "a@5x")]
)
def test_any_number_of_views_of_either_layout_overfits_64_spots(keys):
    table = with_views(made_up("A", each=1, spots=64, dim=12, genes=4), *keys)
    head = make_head("mmap", epochs=120, members=1, dim=32, rank=4, dropout=0.0)
    head.training = TrainingOptions(lr=5e-3, weight_decay=0.0)
    fitted = head.fit(table).predict(table)
    assert np.mean(within_slide_pearson(fitted, table.targets, table.slide)) > 0.95


def test_the_same_seed_gives_the_same_numbers_and_another_others():
    table = made_up("AB", each=1, spots=20, dim=6, genes=4)
    options = {"epochs": 2, "members": 1, "neighbours": "both"}
    first, second, other = (make_head("mmap", seed=seed, **options).fit(table).predict(table) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


def interacting(patients, *, seed, spots=120):
    """Genes follow a spot's first feature times the mean of the second over its neighbours within 600 um."""
    table = made_up(patients, each=1, spots=spots, dim=4, genes=3, seed=seed)
    side = int(np.ceil(np.sqrt(len(table))))
    place = np.concatenate(
        [np.stack(np.divmod(np.arange((table.slide == s).sum()), side)).T for s in np.unique(table.slide)]
    )
    table = replace(table, center_um=place * 200.0)
    around, _ = in_tissue(table, NeighbourRule(), seed=0)
    x = table.features()
    mean = (x[around.index, 1] * around.mask).sum(1) / around.mask.sum(1)
    y = (x[:, 0] * mean)[:, None] * np.array([3.0, -3.0, 2.0]) + 0.1 * np.random.default_rng(seed).normal(
        size=(len(x), 3)
    )
    return replace(
        table, targets=centre_by_slide(y, table.slide).astype(np.float32), weights=np.ones(len(x), np.float32)
    )


def test_surroundings_that_matter_by_interaction_are_found_and_lost_when_shuffled():
    train, test = interacting("ABCDEF", seed=0), interacting("Z", seed=5, spots=300)
    scores = {}
    for name, options in {
        "off": {"neighbours": "off"},
        "space": {},
        "shuffled": {"neighbours": "space", "shuffled": True},
    }.items():
        head = make_head("mmap", epochs=30, members=1, dim=32, dropout=0.0, prototypes=0, **options).fit(train)
        scores[name] = np.mean(within_slide_pearson(head.predict(without_truth(test)), test.targets, test.slide))
    assert scores["space"] > 0.5
    assert abs(scores["off"]) < 0.25
    assert abs(scores["shuffled"]) < 0.25


def test_look_alikes_and_an_anchor_fit_predict_and_tell():
    table = made_up("ABCD", each=1, spots=25, dim=6, genes=4)
    test, bare = unseen(table, spots=40)
    head = make_head("mmap", epochs=3, members=1, neighbours="both", anchor="ridge").fit(table)
    assert np.mean(within_slide_pearson(head.predict(bare), test.targets, test.slide)) > 0.5
    assert set(head.chosen_["gates"]) == {"0.0", "0.5", "1.0"}
    branches = sum(p.numel() for name, p in head.modules_[0].named_parameters() if name.startswith("in_"))
    # Per branch: two norms, query, keys and values, place (3 x 16 + 16 + 16 x 4), by_query and out; expression 4 x 128.
    assert branches == 2 * (4 * 128 + 3 * 128**2 + 128 + 2 * (128**2 + 128)) + 4 * 128
