"""MMAP as published: its rules and sizes from the reference, blocks by hand, and stages that do not see too much."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads import make_head
from tissuary.heads.engine.batch import Around, Batch, epoch_of
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.training import NetworkRun
from tissuary.heads.networks.mmap.paper import (
    PUBLISHED,
    PublishedAttention,
    SlideStage,
    SpotStage,
    fit_spots,
    outputs_of,
    similarity_loss,
)
from tissuary.heads.networks.mmap.prototypes import prototypes_of, slide_prototypes, top_half
from tissuary.heads.protocols.inner import within_slide_pearson
from tissuary.store.errors import HeadError
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one, row_data, shape_of
from tissuary.tests.head_tables import made_up, unseen

VIEWS = ("uni@20x", "uni@10x", "uni@5x")
FAST = replace(PUBLISHED, lr=1e-3, lr_end=1e-4)


def size(module):
    return sum(p.numel() for p in module.parameters())


def slide_batch(fused, position, mask, *, own, genes=3):
    """Rows `own` of fused vectors (u, d) with prototypes at `position`, as stage 2 sees them."""
    b, u = len(own), len(fused)
    around = Around(position, mask, torch.zeros(*mask.shape, 2), torch.zeros(mask.shape))
    guess = torch.randn(u, genes, generator=torch.Generator().manual_seed(5))
    ones = torch.ones(b)
    return Batch((fused, guess), own, ones[None], torch.ones(1), ones, torch.zeros(b, 2), feature=around)


@pytest.mark.parametrize(("n", "k"), [(176, 35), (346, 69), (295, 59), (613, 80), (100, 32), (20, 20)])
def test_a_slide_has_a_fifth_of_its_spots_as_prototypes_within_bounds(n, k):
    assert prototypes_of(n) == k


def test_each_row_keeps_the_nearer_half_of_its_own_slides_prototypes():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(346 + 60, 6)).astype(np.float32)
    slide = np.repeat([0, 1], [346, 60])
    bank, where = slide_prototypes(values, slide, seed=0)
    assert [(where == one).sum() for one in (0, 1)] == [69, 32]
    found = top_half(values, slide, bank, where)
    assert found.mask.sum(1).tolist() == [34] * 346 + [16] * 60
    for row in (3, 390):
        cosine = bank @ values[row] / np.linalg.norm(bank, axis=1) / np.linalg.norm(values[row])
        mine = np.flatnonzero(where == slide[row])
        best = mine[np.argsort(-cosine[mine])][: found.mask[row].sum()]
        np.testing.assert_array_equal(found.index[row, found.mask[row]], best)
        np.testing.assert_allclose(found.distance[row, found.mask[row]], 1 - cosine[best], atol=1e-6)


def test_a_slide_of_one_spot_has_one_prototype():
    one = np.ones((1, 4), dtype=np.float32)
    bank, where = slide_prototypes(one, np.zeros(1, dtype=np.int64), seed=0)
    np.testing.assert_array_equal(bank, one)
    assert top_half(one, np.zeros(1, dtype=np.int64), bank, where).mask.tolist() == [[True]]


def test_l_sim_by_hand():
    fused, anchor = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    # Own pairs: 1 - 1 and 1 - 1/sqrt(2). Others: cos(f0, c1) - 0.2 = 1/sqrt(2) - 0.2, and cos(f1, c0) = 0 is clipped.
    assert float(similarity_loss(fused, anchor, torch.ones(2))) == pytest.approx((1 - 0.2) / 2)
    padded = [torch.cat([one, torch.randn(3, 2)]) for one in (fused, anchor)]
    assert float(similarity_loss(*padded, torch.tensor([1.0, 1, 0, 0, 0]))) == pytest.approx(0.4)


def test_the_published_negatives_grow_with_the_batch():
    """All vectors alike: nothing to pull, and B - 1 pushes of 0.8 a row."""
    for b in (2, 16):
        same = torch.ones(b, 4)
        assert float(similarity_loss(same, same, torch.ones(b))) == pytest.approx(0.8 * (b - 1), rel=1e-5)


@pytest.mark.parametrize(("dim", "first", "second"), [(1024, 2_612_724, 2_356_474), (512, 2_887_156, 1_178_362)])
def test_parameter_counts_are_the_references(dim, first, second):
    with torch.device("meta"):
        assert size(SpotStage(NetworkShape(VIEWS, ((1024,),) * 3, 250), dim=dim)) == first
        assert size(SlideStage(dim, 250)) == second


def test_attention_by_hand():
    torch.manual_seed(0)
    block = PublishedAttention(6).eval()
    query, tokens = torch.randn(2, 6), torch.randn(2, 3, 6)
    normed = torch.nn.functional.layer_norm(tokens, (6,))
    q = torch.nn.functional.layer_norm(query, (6,)) @ block.to_query.weight.T
    k, v = normed @ block.to_key.weight.T, normed @ block.to_value.weight.T
    rows = []
    for i in range(2):
        heads = []
        for h in range(8):
            part = slice(64 * h, 64 * h + 64)
            share = torch.softmax(k[i][:, part] @ q[i][part] / 8.0, dim=0)  # sqrt(64)
            heads.append(share @ v[i][:, part])
        rows.append(torch.cat(heads) @ block.out.weight.T + block.out.bias)
    torch.testing.assert_close(block(query, tokens), torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_padded_prototypes_change_nothing_and_prototypes_count():
    torch.manual_seed(0)
    stage, fused = SlideStage(8, 3).eval(), torch.randn(12, 8)
    own, position = torch.arange(4), torch.arange(4, 12).view(1, 8).repeat(4, 1)
    mask = torch.ones(4, 8, dtype=torch.bool)
    few = stage(slide_batch(fused, position[:, :5], mask[:, :5], own=own))
    mask[:, 5:] = False
    torch.testing.assert_close(stage(slide_batch(fused, position, mask, own=own)), few)
    assert (stage(slide_batch(fused, position, torch.ones_like(mask), own=own)) - few).abs().max() > 1e-3


def test_steps_pool_sixteen_spots_of_any_slides():
    slide = row_data(made_up(spots=40)).slide
    generator = torch.Generator().manual_seed(0)
    steps = list(
        epoch_of(slide, np.arange(200), batch=PUBLISHED.batch, at_least=PUBLISHED.at_least, generator=generator)
    )
    assert [len(step) for step in steps] == [16] * 12 + [8]
    assert min(len(np.unique(slide[step])) for step in steps) > 1
    assert sorted(np.concatenate(steps)) == list(range(200))


def test_the_rate_falls_from_a_hundred_thousandth_to_a_tenth_of_it():
    assert PUBLISHED.rate(0, 1000) == pytest.approx(1e-5)
    assert PUBLISHED.rate(500, 1000) == pytest.approx(5.5e-6)
    assert PUBLISHED.rate(1000, 1000) == pytest.approx(1e-6)


def test_l_sim_joins_at_the_sixth_epoch_alone_and_stacked():
    table = made_up("AB", each=1, spots=20, dim=5, genes=3)
    data = row_data(table)

    def runs():
        out = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            out.append(
                NetworkRun(SpotStage(shape_of(table), dim=8), data, np.arange(40), replace(FAST, epochs=7), seed)
            )
        return out

    _, losses = assert_stacked_is_one_by_one(runs)
    assert all(curve[5] > curve[4] + 0.05 for curve in losses)


def test_gradients_reach_every_parameter():
    table = made_up("AB", each=1, spots=20, dim=5, genes=3)
    from tissuary.heads.engine.batch import make_batch

    torch.manual_seed(0)
    spot, slide = SpotStage(shape_of(table), dim=8), SlideStage(8, 3)
    spot.epoch.fill_(5)
    around = slide_batch(
        torch.randn(12, 8), torch.arange(4, 12).view(1, 8).repeat(4, 1), torch.ones(4, 8).bool(), own=torch.arange(4)
    )
    for module, batch in ((spot, make_batch(row_data(table), np.arange(16))), (slide, around)):
        prediction, extra = module.step(batch)
        (prediction.square().sum() + extra).backward()
        assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("stacking", ["cross-fitted", "in-sample"])
def test_what_stage_two_learns_from_has_not_seen_the_rows_targets(stacking):
    table = made_up("ABC", each=1, spots=25, dim=6, genes=3)
    slide = table.slide
    other = table.targets.copy()
    other[slide == 1] = np.random.default_rng(3).normal(size=other[slide == 1].shape)
    found = []
    for targets in (table.targets, other):
        torch.manual_seed(0)
        stage = SpotStage(shape_of(table), dim=8)
        data = row_data(replace(table, targets=targets))
        rule, spots, _ = fit_spots(stage, data, table, options=replace(FAST, epochs=3), stacking=stacking, seed=0)
        found.append(spots)
        assert rule == ("patients" if stacking == "cross-fitted" else "nothing")
    change = np.abs(found[0].prediction - found[1].prediction).max(axis=1) + np.abs(
        found[0].fused - found[1].fused
    ).max(1)
    assert change[slide != 1].max() > 1e-4
    assert (change[slide == 1].max() == 0) == (stacking == "cross-fitted")
    if stacking == "in-sample":
        np.testing.assert_array_equal(spots.fused, outputs_of(stage, replace(data, y=None)).fused)


def test_the_head_learns_and_repeats_from_the_same_seed():
    table = made_up("ABC", each=1, spots=60, noise=0.1, dim=6, genes=4)
    test, bare = unseen(table, spots=50, noise=0.1)
    first, second = (make_head("mmap", mode="paper", dim=16, epochs=4) for _ in range(2))
    for head in (first, second):
        head.training = FAST
        head.fit(table)
    expected = first.predict(bare)
    assert np.nanmean(within_slide_pearson(expected, test.targets, test.slide)) > 0.3
    np.testing.assert_array_equal(second.predict(bare), expected)
    assert first.chosen_ == {"epochs": 4, "selection": "given", "cross_fit": "patients"}
    assert first.n_parameters_ == size(first.modules_[0])


def test_the_slide_mean_control_gives_every_spot_one_token():
    table = made_up("AB", each=1, spots=40, dim=6, genes=4)
    _, bare = unseen(table, spots=30)
    predictions = []
    for bank in ("prototypes", "slide-mean"):
        head = make_head("mmap", mode="paper", dim=16, epochs=1, bank=bank).fit(table)
        assert head.chosen_["cross_fit"] == "blocks"  # two slides are too few to leave one out
        predictions.append(head.predict(bare))
    assert np.abs(predictions[0] - predictions[1]).max() > 1e-5


def test_it_overfits_64_spots():
    table = made_up("A", each=1, spots=64, dim=12, genes=4)
    head = make_head("mmap", mode="paper", dim=32, epochs=60, stacking="in-sample")
    head.training = replace(PUBLISHED, lr=3e-3)
    fitted = within_slide_pearson(head.fit(table).predict(table), table.targets, table.slide)
    assert np.mean(fitted) > 0.95


def test_token_grids_stand_in_for_the_wider_views():
    table = made_up("ABC", each=1, spots=20, dim=6, genes=3)
    parts = table.columns["made-up@20x"].parts
    wide = FeatureColumn("made-up@5x", "none", parts)
    both = replace(table, columns={wide.key: wide, **table.columns})
    grid = FeatureColumn("made-up@5x.grid2x2", "none", tuple(np.repeat(part[:, None], 4, axis=1) for part in parts))
    missing = r"no token grid of made-up@5x\. Make them: `tissuary featurize .* --tokens 7x7`"
    with pytest.raises(HeadError, match=missing):
        make_head("mmap", mode="paper", tokens=True).fit(both)
    ready = replace(both, token_columns={grid.key: grid})
    head = make_head("mmap", mode="paper", tokens=True, dim=6, epochs=1).fit(ready)
    assert head.shape_.keys == ("made-up@20x", "made-up@5x.grid2x2")  # the finest first, whatever the table's order
    assert np.isfinite(head.predict(ready)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "papre"}, "head 'mmap' has no mode 'papre': did you mean paper"),
        ({"mode": "paper", "bank": "none"}, "has no bank 'none': choose prototypes, slide-mean"),
        ({"mode": "paper", "stacking": "none"}, "has no stacking 'none': choose cross-fitted, in-sample"),
        ({"mode": "paper", "neighbours": "space"}, "without neighbours and anchor"),
        ({"mode": "paper", "anchor": "ridge"}, "without neighbours and anchor"),
        ({"bank": "slide-mean"}, "options of mode='paper'"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, words):
    with pytest.raises(HeadError, match=words):
        make_head("mmap", **options).fit(made_up("AB", spots=10))
