"""CMRCNet's parts by hand, its parameter counts, what a detached reconstruction cannot do, and the head as a whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads.engine.batch import Batch
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.rows import RowData
from tissuary.heads.engine.training import NetworkRun
from tissuary.heads.networks.cmrc import CMRC
from tissuary.heads.networks.cmrc_networks import (
    Attention,
    CMRCSizes,
    FixedCMRC,
    FusionBlock,
    GeneAttention,
    PublishedCMRC,
    SeededAlphaDropout,
    Terms,
)
from tissuary.heads.protocols.inner import mean_within_slide
from tissuary.store.errors import HeadError
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one
from tissuary.tests.head_tables import made_up, unseen, without_truth

SMALL = {"width": 16, "dim": 8, "rank": 4, "rows": 8}


def with_grid(table, *, tokens=4, dim=12, seed=5):
    """The same table with a token grid of its first view."""
    rng = np.random.default_rng(seed)
    parts = tuple(rng.normal(size=(len(p), tokens, dim)).astype(np.float32) for p in table.columns["made-up@20x"].parts)
    key = "made-up@20x.grid2x2"
    return replace(table, token_columns={key: FeatureColumn(key, "none", parts)})


def batch_of(n=10, dim=12, genes=6, *, tokens=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Batch(
        x=(torch.randn(n, dim, generator=g), torch.randn(n, tokens, dim, generator=g)),
        rows=torch.arange(n),
        member=torch.ones(1, n),
        share=torch.ones(1),
        weight=torch.rand(n, generator=g) + 0.1,
        place_um=torch.zeros(n, 2),
        y=torch.randn(n, genes, generator=g),
    )


SHAPE = NetworkShape(("made-up@20x", "made-up@20x.grid"), ((12,), (3, 12)), 6)


def grads(module, batch):
    module.zero_grad()
    module.step(batch).extra.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def published(**terms):
    torch.manual_seed(0)
    return PublishedCMRC(SHAPE, terms=Terms(**terms), dim=16).train()


# --- counts


@pytest.mark.parametrize(("width", "whole", "inference"), [(1024, 4_279_808, 651_264), (1536, 4_541_952, 782_336)])
def test_the_published_heads_have_the_published_parameters(width, whole, inference):
    """4.28M and .65M, 4.54M and .78M at 1,000 genes."""
    module = PublishedCMRC(NetworkShape(("a@20x",), ((width,),), 1000), terms=Terms())
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.rebuild.named_children()}
    assert count["image"] == width * 256 + 256 + 256 * 256 + 256 + 512
    assert count["image"] + count["spot"] == inference
    assert parts["gene_tokens"] == 1000 * 2048 + 2048
    assert parts["latent"] == width * 256 + 256
    assert parts["first"] == 4 * (256 * 256 + 256)
    assert parts["blocks"] == 789_760 + 4 * (256 * 256 + 256)  # one block, run twice
    assert sum(count.values()) == whole


# --- blocks


def test_attention_is_torch_s_own():
    torch.manual_seed(0)
    ours, theirs = Attention(8, heads=4), torch.nn.MultiheadAttention(8, 4, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate((ours.query, ours.key, ours.value)):
            layer.weight.copy_(theirs.in_proj_weight[8 * i : 8 * i + 8])
            layer.bias.copy_(theirs.in_proj_bias[8 * i : 8 * i + 8].normal_())
        ours.out.load_state_dict(theirs.out_proj.state_dict())
    x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    assert torch.allclose(ours(x, y), theirs(x, y, y)[0], atol=1e-6)


def test_gene_attention_by_hand():
    torch.manual_seed(0)
    block, (x, y) = GeneAttention(4, heads=2).eval(), (torch.randn(1, 3, 4), torch.randn(1, 2, 4))
    q, k = torch.relu(block.query(x))[0], torch.relu(block.key(y))[0]
    wanted = block.own(q).clone()
    values = block.theirs(k)
    for head in (slice(0, 2), slice(2, 4)):
        for i in range(3):
            share = torch.stack([torch.exp(q[i, head] @ k[j, head] / 2**0.5) for j in range(2)])
            wanted[i, head] += (share / share.sum()) @ values[:, head]
    assert torch.allclose(block(x, y)[0], wanted, atol=1e-6)


def test_a_fusion_block_adds_three_residuals():
    torch.manual_seed(0)
    block, x, y = FusionBlock(8, heads=2).eval(), torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    n = block.norm1(x)
    one = x + block.self_attention(n, n)
    two = one + block.perceptron(block.norm2(one))
    assert torch.allclose(block(x, y), two + block.genes(two, y))


def test_alpha_dropout_is_torch_s_own_but_for_the_seed():
    ours, x = SeededAlphaDropout(0.25).train(), torch.linspace(-2, 2, 4000).view(40, 100)
    theirs = torch.nn.AlphaDropout(0.25).train()
    torch.manual_seed(0)
    a, b = ours(x), theirs(x)
    saturated = b.flatten().mode().values
    dropped = torch.isclose(a, saturated, atol=1e-5)
    both = ~dropped & ~torch.isclose(b, saturated, atol=1e-5)
    assert torch.allclose(a[both], b[both], atol=1e-5)
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(ours.eval()(x), x)


def test_masks_are_of_values_as_published_and_of_whole_tokens_in_ours():
    tokens = torch.randn(20, 6, 16) + 5.0
    values = published().rebuild.masked(tokens)
    assert float((values == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(values[values != 0], tokens[values != 0])  # kept as they are, not rescaled
    torch.manual_seed(0)
    ours = FixedCMRC(SHAPE, terms=Terms(), sizes=CMRCSizes(width=16, dim=16, rank=4), grid_view=0).train().rebuild
    masked = ours.masked(tokens)
    replaced = (masked == ours.mask_token).all(-1)
    assert float(replaced.float().mean()) == pytest.approx(0.5, abs=0.15)
    assert torch.equal(masked[~replaced], tokens[~replaced])


# --- what the reconstruction can do


def test_a_detached_reconstruction_leaves_the_retrieval_path_s_gradients_as_they_are():
    batch = batch_of()
    without = grads(published(reconstruction=0.0), batch)
    detached, attached = (grads(published(attached=one), batch) for one in (False, True))
    assert set(without) < set(detached)
    assert all(name.startswith(("image.", "spot.")) for name in without)
    for name, grad in without.items():
        assert torch.equal(grad, detached[name])
    assert all(torch.equal(grad, attached[name]) for name, grad in without.items() if name.startswith("spot."))
    assert not torch.allclose(without["image.project.weight"], attached["image.project.weight"], atol=1e-4)


def test_a_detached_reconstruction_leaves_what_is_retrieved_as_it_is():
    table = made_up("ABC", spots=16, each=1)
    bare = unseen(table)[1]

    def predict(**options):
        head = CMRC(mode="paper", epochs=1, k=3, **options)
        head.training = replace(head.training, lr=1e-2)
        return head.fit(table).predict(bare)

    without = predict(reconstruction=0.0)
    assert np.array_equal(without, predict(target="detached"))
    assert np.abs(without - predict()).max() > 1e-4  # attached, as published


def test_in_ours_the_reconstruction_reaches_retrieval_through_the_adapter_alone():
    def made(**terms):
        torch.manual_seed(0)
        return FixedCMRC(SHAPE, terms=Terms(**terms), sizes=CMRCSizes(16, 8, 4, rows=6), grid_view=0).train()

    batch = batch_of()
    without, detached = grads(made(reconstruction=0.0), batch), grads(made(attached=False), batch)
    for name, grad in without.items():
        same = torch.equal(grad, detached[name])
        assert same != name.startswith(("adapters.", "norm.")), name


# --- the heads


@pytest.mark.parametrize("mode", ["fixed", "paper"])
def test_prediction_is_brute_force_over_the_memory(mode):
    table = with_grid(made_up(spots=20, each=1))
    bare = with_grid(unseen(table)[1])
    head = CMRC(mode=mode, epochs=2, members=1, **SMALL).fit(table)
    module, x, y = head.modules_[0], bare.features().astype(np.float32), table.targets
    with torch.inference_mode():
        grid = next(iter(bare.token_columns.values())).gather(bare.slide, bare.row)
        mean = torch.from_numpy(np.concatenate([x[:, None], grid], axis=1)).mean(1)
        rows = torch.arange(len(bare))
        seen = batch_of(len(bare))._replace(x=(torch.from_numpy(x),), rows=rows)
        queries = (module.image(mean) if mode == "paper" else module.embed(seen)).numpy().astype(np.float64)
        keys = module.keys(torch.from_numpy(y / head.spread_)).numpy().astype(np.float64)
        regression = 0.0 if mode == "paper" else module(seen).numpy()
    cosine = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (keys / np.linalg.norm(keys, axis=1)[:, None]).T
    best = np.argsort(-cosine, axis=1)[:, : head.k_]
    weight = np.ones(best.shape)
    if mode == "fixed":
        weight = np.exp(np.take_along_axis(cosine, best, 1) / head.temperature_) * table.weights[best]
    means = np.einsum("mk,mkg->mg", weight / weight.sum(1, keepdims=True), (y / head.spread_)[best])
    wanted = (head.blend_ * means + (1 - head.blend_) * regression) * head.spread_
    assert np.allclose(head.predict(bare), wanted + head.level_, atol=1e-4)
    assert (head.k_, head.temperature_, head.blend_) == (50, None, 1.0) or mode == "fixed"


def test_the_default_chooses_how_to_retrieve_and_says_so():
    head = CMRC(epochs=1, members=1, **SMALL).fit(made_up("ABC", spots=15))
    scores = head.chosen_["retrieval_scores"]
    assert head.chosen_["tokens"] == "one per view (1)"
    assert head.chosen_["selection"] == "given"  # by epochs=1
    alone = CMRC(members=1, k=5, temperature=0.1, blend=0.5, **SMALL).fit(made_up("AB", each=1, spots=6))
    assert alone.chosen_["selection"] == "fixed"
    pairs = {name: score for name, score in scores.items() if name.startswith("k=")}
    assert max(pairs, key=pairs.get) == f"k={head.k_}, temperature={head.temperature_:g}"
    blends = {name: score for name, score in scores.items() if name.startswith("blend=")}
    assert max(blends, key=blends.get) == f"blend={head.blend_:g}"
    assert blends["blend=1"] == pytest.approx(max(pairs.values()))


def test_given_values_stand_and_one_patient_of_two_slides_gets_fixed_ones():
    head = CMRC(epochs=2, members=1, k=7, temperature=0.3, blend=0.25, **SMALL).fit(made_up(spots=20, each=1))
    assert (head.k_, head.temperature_, head.blend_) == (7, 0.3, 0.25)
    head = CMRC(epochs=2, members=1, **SMALL).fit(made_up("A", spots=20))
    assert (head.k_, head.temperature_, head.blend_) == (50, 0.1, 0.5)


def test_choosing_never_finds_the_query_s_own_patient():
    """One patient expresses, the other does not: whoever finds none but the other predicts a constant, which scores 0.

    Two patients are too few to hold one out, so that slides are held out and the search has to leave patients out.
    """
    table = made_up("AB", each=2, spots=20, noise=0.1)
    silent = np.array(table.patient_ids)[table.slide] == "B"
    table = replace(table, targets=np.where(silent[:, None], 0.0, table.targets).astype(np.float32))
    options = {"epochs": 10, "members": 1, "k": 1, "temperature": 0.1, "blend": 1.0, "reconstruction": 0.0}
    head = CMRC(contrast=1.0, dropout=0.0, **SMALL, **options).fit(table)
    assert head.chosen_["retrieval_scores"] == {"k=1, temperature=0.1": 0.0}
    bare = without_truth(table)
    own = mean_within_slide(head.predict(bare)[~silent], table.targets[~silent], table.slide[~silent])
    assert own > 0.2  # prediction leaves nobody out


def test_it_overfits_64_spots_by_regression_and_by_retrieval():
    table = made_up("AB", each=1, spots=32, noise=1.0)
    head = CMRC(
        contrast=1.0,
        reconstruction=0.0,
        width=64,
        dim=32,
        rank=6,
        dropout=0.0,
        members=1,
        k=1,
        blend=1.0,
        temperature=0.1,
        epochs=110,
    )
    head.training = replace(head.training, weight_decay=0.0, lr=5e-3)
    head.fit(table)
    for blend in (0.0, 1.0):
        head.blend_ = blend
        assert mean_within_slide(head.predict(without_truth(table)), table.targets, table.slide) > 0.95


@pytest.mark.parametrize("options", [{}, {"target": "attached"}, {"anchor": "ridge"}, {"mode": "paper"}])
def test_every_parameter_learns_and_the_order_of_spots_does_not_matter(options):
    table = with_grid(made_up("ABC", spots=15, each=1))
    bare = with_grid(unseen(table)[1])
    head = CMRC(epochs=1, members=1, **SMALL, **options).fit(table)
    module = head.modules_[0]
    silent = [name for name, p in module.named_parameters() if p.grad is None]
    assert not silent
    order = np.random.default_rng(0).permutation(len(bare))
    assert np.allclose(head.predict(bare.select_rows(order)), head.predict(bare)[order], atol=1e-5)
    again = CMRC(epochs=1, members=1, **SMALL, **options).fit(table)
    assert np.array_equal(again.predict(bare), head.predict(bare))


@pytest.mark.parametrize("mode", ["fixed", "paper"])
def test_stacked_training_is_training_one_by_one(mode):
    table = with_grid(made_up("ABC", spots=20, each=1))
    head = CMRC(mode=mode, **SMALL)
    options = replace(head.training, epochs=2, lr=1e-3)
    data = RowData.of(table, head.columns(table), torch.device("cpu")).with_targets(table.targets)
    shape = NetworkShape(tuple(c.key for c in head.columns(table)), tuple(c.row_shape for c in head.columns(table)), 6)

    def runs():
        out = []
        for seed, rows in enumerate((np.arange(len(table)), np.arange(31))):
            torch.manual_seed(seed)
            out.append(NetworkRun(head.build(shape), data, rows, options, seed))
        return out

    assert_stacked_is_one_by_one(runs)


def test_levels_of_slides_are_taken_off_and_their_mean_comes_back():
    table = made_up(spots=20, each=1)
    shifted = replace(table, targets=table.targets + 3.0 + table.target_offset[table.slide])
    bare = unseen(table)[1]
    given = {"epochs": 1, "members": 1, "k": 5, "temperature": 0.1, "blend": 0.5, "reconstruction": 0.0, **SMALL}
    heads = [CMRC(**given).fit(one) for one in (table, shifted)]
    level = 3.0 + table.target_offset.mean(0)
    assert np.allclose(heads[1].level_, level, atol=1e-4)
    assert np.allclose(heads[1].predict(bare) - level, heads[0].predict(bare), atol=1e-2)


def test_tokens_are_the_grid_where_there_is_one():
    table = with_grid(made_up(spots=15, each=1))
    for mode in ("fixed", "paper"):
        tokens = "grid" if mode == "fixed" else "auto"
        head = CMRC(mode=mode, tokens=tokens, epochs=1, members=1, **SMALL).fit(table)
        assert head.chosen_["tokens"] == "made-up@20x.grid2x2 + made-up@20x"
        if mode == "fixed":
            assert head.predict(unseen(table)[1]).shape[1] == 6  # a test table needs no grid
        without = CMRC(mode=mode, tokens="views", epochs=1, members=1, **SMALL).fit(table)
        assert without.chosen_["tokens"] == "one per view (1)"


def test_errors_name_the_mend():
    table = made_up(spots=10, each=1)
    with pytest.raises(HeadError, match="has no mode 'both': choose default, fixed, paper"):
        CMRC(mode="both").fit(table)
    with pytest.raises(HeadError, match="featurize SOURCE --store STORE --backbone made-up --tokens 7x7`"):
        CMRC(tokens="grid").fit(table)
    with pytest.raises(HeadError, match="tokens='all': choose auto, grid, views"):
        CMRC(tokens="all").fit(table)
    with pytest.raises(HeadError, match="target='off': choose attached or detached"):
        CMRC(target="off").fit(table)
    with pytest.raises(HeadError, match="in mode paper, which has no last layer"):
        CMRC(mode="paper", anchor="ridge").fit(table)
    wide = replace(
        table,
        columns={**table.columns, "made-up@10x": FeatureColumn("made-up@10x", "none", tuple(
            np.zeros((len(p), 5), np.float32) for p in table.columns["made-up@20x"].parts))},
    )  # fmt: skip
    with pytest.raises(HeadError, match="made-up@20x 12, made-up@10x 5: give one backbone"):
        CMRC(mode="paper").fit(wide)
