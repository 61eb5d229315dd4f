"""BLEEP and EGN on stored features: counts, exemplars, repeatability, and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads.engine.batch import Around, Batch
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.networks.bleep import BLEEP, PublishedPair
from tissuary.heads.networks.egn import EGN, PUBLISHED, ExemplarNetwork
from tissuary.heads.networks.retrieval_losses import published_contrast
from tissuary.heads.protocols.inner import mean_within_slide
from tissuary.store.errors import HeadError
from tissuary.tests.head_tables import made_up, unseen, without_truth

SHAPE = NetworkShape(("a@20x", "a@10x"), ((5,), (4,)), 6)


def batch_of(n=7, b=4, k=3, *, seed=0):
    g = torch.Generator().manual_seed(seed)
    around = Around(
        torch.randint(b, n, (b, k), generator=g),
        torch.ones(b, k, dtype=torch.bool),
        torch.zeros(b, k, 2),
        torch.rand(b, k, generator=g),
    )
    return Batch(
        x=tuple(torch.randn(n, d, generator=g) for d in SHAPE.dims),
        rows=torch.arange(b),
        member=torch.ones(1, b),
        share=torch.ones(1),
        weight=torch.ones(b),
        place_um=torch.zeros(b, 2),
        y=torch.randn(b, 6, generator=g),
        expression=torch.randn(n, 6, generator=g),
        feature=around,
    )


def egn(sizes=replace(PUBLISHED, dim=8, heads=2, hidden=16, depth=2), **options):  # noqa: B008
    torch.manual_seed(0)
    return ExemplarNetwork(SHAPE, sizes, **{"bridged": True, **options}).eval()


def test_bleep_s_heads_have_the_published_size():
    """0.67M in the literature at D = 1024 and 1,000 genes or so; 651,264 by the layers."""
    module = PublishedPair(NetworkShape(("a@20x",), ((1024,),), 1000))
    assert sum(p.numel() for p in module.parameters()) == 651_264


def test_bleep_s_published_loss_is_the_contrast_without_a_logarithm():
    torch.manual_seed(0)
    module, batch = PublishedPair(SHAPE, dim=8).eval(), batch_of()
    image = module.image(torch.cat([x[:4] for x in batch.x], dim=1))
    wanted = published_contrast(image, module.spot(batch.y), torch.ones(4, dtype=torch.bool), log=False)
    step = module.step(batch)
    assert step.prediction is None
    assert step.extra.item() == pytest.approx(wanted.item())


def test_bleep_s_published_prediction_is_the_plain_mean_of_fifty():
    table = made_up(spots=20, each=1)
    bare = unseen(table, spots=30)[1]
    head = BLEEP(mode="paper").fit(table)
    assert (head.epochs_, head.k_, head.temperature_, len(head.modules_)) == (4, 50, None, 1)
    with torch.inference_mode():
        queries = head.modules_[0].image(torch.from_numpy(bare.features())).double().numpy()
        keys = head.modules_[0].spot(torch.from_numpy(table.targets)).double().numpy()
    cosine = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (keys / np.linalg.norm(keys, axis=1)[:, None]).T
    best = np.argsort(-cosine, axis=1)[:, :50]
    assert np.allclose(head.predict(bare), table.targets[best].mean(1), atol=1e-5)


def test_bleep_chooses_how_to_retrieve_and_learns():
    table = made_up("ABC", spots=40, each=1)
    test, bare = unseen(table, spots=60)
    head = BLEEP(members=1).fit(table)
    scores = head.chosen_["retrieval_scores"]
    assert set(scores) == {f"k={k}, temperature={t:g}" for k in (10, 50, 200) for t in (0.05, 0.1, 0.2, 0.4)}
    assert max(scores, key=scores.get) == f"k={head.k_}, temperature={head.temperature_:g}"
    prediction = head.predict(bare)
    assert mean_within_slide(prediction, test.targets, test.slide) > 0.5
    assert np.array_equal(BLEEP(members=1).fit(table).predict(bare), prediction)


def test_bleep_overfits_64_spots():
    table = made_up("AB", each=1, spots=32, noise=1.0)
    head = BLEEP(members=1, dropout=0.0, k=1, temperature=0.1, epochs=100)
    head.training = replace(head.training, weight_decay=0.0, lr=1e-2)
    head.fit(table)
    assert mean_within_slide(head.predict(without_truth(table)), table.targets, table.slide) > 0.95


def test_egn_has_the_widths_of_the_paper():
    """Per block: three attentions' worth of norms and projections, and a feed-forward layer of 4,096 units."""
    attention = 4 * 1024**2 + 1024 + 2 * 2048  # q, k and v without bias, out with one, two norms
    feed = 2048 + 1024 * 4096 + 4096 + 4096 * 1024 + 1024
    with torch.device("meta"):
        module = ExemplarNetwork(NetworkShape(("a@20x",), ((1024,),), 250), PUBLISHED, bridged=True)
    ends = (1024 * 1024 + 1024) + (250 * 1024 + 1024) + 2 * 1024 + 2048 + (1024 * 250 + 250)
    assert sum(p.numel() for p in module.parameters()) == 8 * (2 * attention + feed) + ends == 135_923_962


def test_masked_exemplars_do_not_count_and_their_order_does_not_matter():
    module, batch = egn(), batch_of()
    around = batch.feature
    masked = around._replace(mask=torch.tensor([[True, True, False]]).expand(4, 3))
    out = module(batch._replace(feature=masked))
    other = masked.position.clone()
    other[:, 2] = 0
    assert torch.equal(out, module(batch._replace(feature=masked._replace(position=other))))
    assert not torch.allclose(out, module(batch))
    turned = Around(*(part[:, [2, 0, 1]] for part in around))
    assert torch.allclose(module(batch), module(batch._replace(feature=turned)), atol=1e-6)
    none = around._replace(mask=torch.zeros(4, 3, dtype=torch.bool))
    assert torch.isfinite(module(batch._replace(feature=none))).all()


def test_what_exemplars_express_is_seen_and_own_expression_is_not():
    module, batch = egn(), batch_of()
    theirs, own = batch.expression.clone(), batch.expression.clone()
    theirs[4:] += 1.0
    own[:4] += 1.0  # rows 0 to 3 are predicted, and nobody's exemplars
    assert not torch.allclose(module(batch), module(batch._replace(expression=theirs)))
    assert torch.equal(module(batch), module(batch._replace(expression=own)))
    assert torch.equal(module(batch), module(batch._replace(y=None)))


@pytest.mark.parametrize("neighbours", ["feature", "off"])
def test_egn_learns_repeats_and_follows_the_order_of_spots(neighbours):
    table = made_up("ABC", spots=40, each=1)
    test, bare = unseen(table, spots=60)
    options = {"neighbours": neighbours, "dim": 32, "epochs": 15, "members": 1}
    head = EGN(**options).fit(table)
    prediction = head.predict(bare)
    assert mean_within_slide(prediction, test.targets, test.slide) > 0.5
    assert np.array_equal(EGN(**options).fit(table).predict(bare), prediction)
    order = np.random.default_rng(0).permutation(len(bare))
    assert np.allclose(head.predict(bare.select_rows(order)), prediction[order], atol=1e-5)
    assert not [name for name, p in head.modules_[0].named_parameters() if p.grad is None]


def test_exemplars_are_of_other_patients():
    table = made_up("AB", each=2, spots=20)
    head = EGN(dim=8, epochs=1, members=1, k=5).fit(table)
    patient = np.array(table.patient_ids)[table.slide]
    found = head._reference_rows.feature
    assert found.mask.all()
    assert (patient[found.index] != patient[:, None]).all()


def test_errors_name_the_choices():
    table = made_up(spots=10, each=1)
    with pytest.raises(HeadError, match="BLEEP has no mode 'fixed': choose default, paper"):
        BLEEP(mode="fixed").fit(table)
    with pytest.raises(HeadError, match="egn has no mode 'fixed': choose default or paper"):
        EGN(mode="fixed").fit(table)
    with pytest.raises(HeadError, match="not neighbours='space': choose feature or off"):
        EGN(neighbours="space").fit(table)


@pytest.mark.parametrize("neighbours", ["off", "feature"])
def test_egn_overfits_64_spots(neighbours):
    table = made_up("AB", each=1, spots=32, noise=1.0)
    head = EGN(neighbours=neighbours, members=1, epochs=60, dropout=0.0)
    head.training = replace(head.training, weight_decay=0.0)
    head.fit(table)
    assert mean_within_slide(head.predict(without_truth(table)), table.targets, table.slide) > 0.95
