"""NH2ST's own mode: surroundings in every prediction, an honest contrast, and nothing that is copied."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads import make_head
from tissuary.heads.engine.batch import make_batch
from tissuary.heads.engine.head import as_unseen
from tissuary.heads.engine.neighbours import in_tissue, look_alikes
from tissuary.heads.engine.network import NetworkShape
from tissuary.heads.engine.predicting import predict_rows
from tissuary.heads.engine.training import NetworkRun
from tissuary.heads.networks.nh2st.head import NH2ST
from tissuary.heads.networks.nh2st.paper import far_apart, symmetric_contrast
from tissuary.heads.protocols.inner import mean_within_slide
from tissuary.store.errors import HeadError
from tissuary.store.files.column import FeatureColumn
from tissuary.tests.engine_rows import assert_stacked_is_one_by_one, row_data, shape_of
from tissuary.tests.head_tables import made_up, unseen, without_truth


def on_an_array(table, pitch_um=200.0, seed=3):
    """The same table on square arrays, centres a little off, so that no two neighbours are equally far."""
    rng, centres = np.random.default_rng(seed), np.empty((len(table), 2))
    for one in np.unique(table.slide):
        here = np.flatnonzero(table.slide == one)
        side = int(np.ceil(np.sqrt(len(here))))
        centres[here] = np.stack(np.divmod(np.arange(len(here)), side), axis=1) * pitch_um
    return replace(table, center_um=centres + rng.uniform(-5, 5, size=centres.shape))


def with_features(table, x):
    parts = tuple(x[table.slide == one] for one in range(len(table.slide_ids)))
    return replace(table, columns={"made-up@20x": FeatureColumn("made-up@20x", "none", parts)})


def contextual(patients, *, spots=80, seed=0):
    """Genes that follow the product of a spot's first feature and the mean second one 300 to 600 um away."""
    table = on_an_array(made_up(patients, each=1, spots=spots, seed=seed), seed=seed)
    x = table.features()
    away = np.linalg.norm(table.center_um[:, None] - table.center_um[None], axis=2)
    ring = (away > 300) & (away <= 600) & (table.slide[:, None] == table.slide[None])
    around = (ring @ x[:, 1]) / ring.sum(1)
    signal = x[:, 0] * around / around.std()
    y = signal[:, None] * np.array([1, -1, 1, -1, 1, 1]) + 0.5 * np.random.default_rng(seed).normal(size=(len(x), 6))
    return replace(table, targets=y.astype(np.float32))


def rows_with_neighbours(table, head):
    found = look_alikes(table, head.rule, train=np.arange(len(table)), vectors=table.features(), seed=0)
    return replace(row_data(table), space=in_tissue(table, head.rule, seed=0)[0], feature=found, expression=True)


def network(table, head):
    torch.manual_seed(0)
    return head.build(shape_of(table))


def test_default_is_context():
    table = on_an_array(made_up(spots=12))
    test = without_truth(table)
    found = [NH2ST(mode=mode, epochs=1, members=1).fit(table).predict(test) for mode in ("default", "context")]
    np.testing.assert_array_equal(*found)


def test_what_acts_from_afar_is_learnt_from_neighbours_and_lost_without_them():
    train, test = contextual("ABCDEF"), contextual("XY", seed=50)
    score = {}
    for name, options in (("space", {}), ("off", {"neighbours": "off"}), ("shuffled", {"shuffled": True})):
        head = make_head("nh2st", epochs=12, members=1, dim=32, contrast=0, dropout=0.1, **options)
        head.training = replace(head.training, at_least=0)  # more steps in an epoch of few spots
        head.fit(train)
        score[name] = mean_within_slide(head.predict(without_truth(test)), test.targets, test.slide)
    assert score["space"] > 0.45
    assert abs(score["off"]) < 0.15
    assert abs(score["shuffled"]) < 0.15


def test_spots_in_another_order_get_the_same_predictions():
    table = on_an_array(made_up(spots=20))
    head = NH2ST(neighbours="both", epochs=1, members=1).fit(table)
    bare = on_an_array(unseen(table, spots=50)[1])
    order = np.random.default_rng(0).permutation(len(bare))
    np.testing.assert_allclose(head.predict(bare.select_rows(order)), head.predict(bare)[order], atol=1e-5)


def test_a_prediction_follows_the_spots_of_its_rings_and_no_others():
    table = on_an_array(made_up(spots=20))
    head = NH2ST(epochs=1, members=1).fit(table)
    bare = on_an_array(unseen(table, spots=100)[1])
    x, before = bare.features(), head.predict(bare)
    away = np.linalg.norm(bare.center_um - bare.center_um[0], axis=1)
    far, near = x.copy(), x.copy()
    far[away > 620] += 3.0
    near[(away > 0) & (away < 250)] += 3.0
    np.testing.assert_allclose(head.predict(with_features(bare, far))[0], before[0], atol=1e-5)
    assert np.abs(head.predict(with_features(bare, near))[0] - before[0]).max() > 1e-3


def test_what_stands_in_masked_places_does_not_matter():
    table = on_an_array(made_up(spots=20))
    head = NH2ST(neighbours="both")
    data, module = rows_with_neighbours(table, head), network(table, head).eval()
    batch = make_batch(data, np.arange(30))

    def disturbed(around):
        gone = ~around.mask
        return around._replace(
            position=torch.where(gone, 7, around.position),
            offset_um=torch.where(gone[..., None], 99.0, around.offset_um),
            distance=torch.where(gone, 5.0, around.distance),
        )

    closed = batch.feature._replace(mask=batch.feature.mask & (torch.arange(8) < 5))
    plain = batch._replace(feature=closed)
    other = plain._replace(space=disturbed(plain.space), feature=disturbed(closed))
    assert not plain.space.mask.all()
    torch.testing.assert_close(module(other), module(plain))
    torch.testing.assert_close(module.step(other).extra, module.step(plain).extra)


def test_spots_without_any_neighbour_are_predicted():
    table = made_up(spots=12)
    lonely = replace(table, center_um=np.arange(len(table))[:, None] * np.array([5000.0, 0.0]))
    head = NH2ST(epochs=2, members=1).fit(lonely)
    assert np.isfinite(head.predict(without_truth(lonely))).all()
    assert np.isfinite(head.loss_curve_).all()


@pytest.mark.parametrize("neighbours", ["off", "space", "feature", "both"])
def test_gradients_reach_every_parameter(neighbours):
    table = on_an_array(made_up(spots=20))
    head = NH2ST(neighbours=neighbours, contrast=0.5)
    module = network(table, head).train()
    step = module.step(make_batch(rows_with_neighbours(table, head), np.arange(60)))
    (step.prediction.square().mean() + step.extra).backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_without_a_contrast_genes_are_no_input_and_without_look_alikes_never_of_a_prediction():
    table = on_an_array(made_up(spots=20))
    head = NH2ST(contrast=0)
    module = network(table, head)
    batch = make_batch(rows_with_neighbours(table, head), np.arange(40))
    assert module.step(batch).extra is None
    assert not [name for name, _ in module.named_parameters() if "gene_encoder" in name or "warmth" in name]
    contrasted = network(table, NH2ST()).eval()
    torch.testing.assert_close(contrasted(batch), contrasted(batch._replace(y=None, expression=None)))


def test_the_contrast_is_info_nce_in_both_directions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    real, negatives = np.ones(7, dtype=bool), np.ones((7, 7), dtype=bool)
    real[5:] = False
    negatives[0, 3] = negatives[3, 0] = False
    cosine = np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]) / 0.2
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j == i or negatives[i, j]]
        total -= np.log(np.exp(cosine[i, i]) / np.exp(cosine[i, others]).sum())
        total -= np.log(np.exp(cosine[i, i]) / np.exp(cosine[others, i]).sum())
    found = symmetric_contrast(
        *map(torch.from_numpy, (a, b)),
        temperature=torch.tensor([0.2]),
        real=torch.from_numpy(real),
        negatives=torch.from_numpy(negatives),
    )
    assert float(found) == pytest.approx(total / 10)


@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.3])
def test_collapsed_codes_cost_log_8(cosine):
    image = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    genes = torch.tensor([[cosine, np.sqrt(1 - cosine**2)]], dtype=torch.float32).expand(8, 2)
    every = torch.ones(8, 8, dtype=torch.bool)
    loss = symmetric_contrast(image, genes, temperature=torch.tensor([0.05]), real=every[0], negatives=every)
    assert float(loss) == pytest.approx(2.079, abs=1e-3)


def test_adjacent_spots_of_a_slide_are_never_told_apart():
    place = torch.tensor([[0.0, 0.0], [300.0, 0.0], [301.0, 0.0], [0.0, 0.0]])
    same = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    apart = far_apart(place, same, within_um=300.0)
    wanted = [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]]
    assert apart.int().tolist() == wanted
    table = on_an_array(made_up("AB", each=1, spots=9), pitch_um=60.0)  # all within 300 um of each other
    head = NH2ST(neighbours="off", contrast=1.0)
    batch = make_batch(replace(row_data(table), expression=True), np.flatnonzero(table.slide == 0))
    assert network(table, head).step(batch).extra.item() == pytest.approx(0.0, abs=1e-6)


def test_steps_hold_several_slides_and_256_spots():
    table, head = made_up(spots=100), NH2ST()
    rows = np.arange(len(table))
    run = NetworkRun(
        network(table, NH2ST(neighbours="off")), row_data(table), rows, replace(head.training, epochs=1), 0
    )
    sizes = [(len(batch.rows), len(batch.member)) for _, batch in run.batches()]
    assert all(rows >= 256 and slides >= 2 for rows, slides in sizes[:-1])


def test_64_spots_can_be_learnt_by_heart():
    table = on_an_array(made_up("AB", each=1, spots=32, noise=1.0))
    head = NH2ST(neighbours="both", epochs=60, members=1, dropout=0.0, contrast=0)
    head.training = replace(head.training, weight_decay=0.0, lr=1e-2)
    head.fit(table)
    predicted = predict_rows(head.modules_, as_unseen(head._reference_rows))
    assert mean_within_slide(predicted, table.targets, table.slide) > 0.95


def test_stacked_training_is_one_by_one():
    table, head = on_an_array(made_up(spots=24)), NH2ST(neighbours="both", contrast=0.3)
    data = rows_with_neighbours(table, head)

    def runs():
        out = []
        for seed, rows in ((0, np.arange(len(table))), (1, np.flatnonzero(table.slide != 2))):
            torch.manual_seed(seed)
            out.append(
                NetworkRun(head.build(shape_of(table)), data, rows, replace(head.training, epochs=2 + seed), seed)
            )
        return out

    assert_stacked_is_one_by_one(runs)


def test_a_seed_repeats_and_the_record_tells():
    table = on_an_array(made_up(spots=12))
    found = [NH2ST(epochs=1, members=1, seed=seed).fit(table) for seed in (1, 1, 2)]
    first, again, other = (head.predict(without_truth(table)) for head in found)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert 0.01 <= found[0].chosen_["temperature"] < 0.1
    assert found[0].n_parameters_ == sum(p.numel() for p in network(table, NH2ST()).parameters())


def test_the_default_network_stays_small():
    shape = NetworkShape(("v",), ((1536,),), 250)
    assert sum(p.numel() for p in NH2ST().build(shape).parameters()) < 200_000


def test_an_answer_planted_in_twins_of_the_same_patient_is_not_copied():
    """Twins share features and noise on two slides. Were they of two patients, the noise would be copied."""
    table = made_up("ABCDEF", each=2, spots=40)
    x, y = table.features(), np.random.default_rng(0).normal(size=table.targets.shape).astype(np.float32)
    for one in range(0, 12, 2):
        mine, theirs = (np.flatnonzero(table.slide == slide) for slide in (one, one + 1))
        x[theirs[: len(mine)]], y[theirs[: len(mine)]] = x[mine], y[mine]
    twins = replace(with_features(table, x), targets=y)
    strangers = replace(twins, patient_ids=twins.slide_ids)
    noise = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    followed = {}
    for name, cohort in (("twins", twins), ("strangers", strangers)):
        head = NH2ST(neighbours="feature", epochs=20, members=1, contrast=0, dropout=0.1)
        head.rule = replace(head.rule, look_alikes=1)
        found = head.fit(cohort)._reference_rows.feature
        who = np.array(cohort.patient_ids)[cohort.slide]
        assert (who[found.index] != who[:, None]).all()
        # Look-alikes come with an expression that nobody has learnt by heart: do predictions follow it?
        told, turned = (
            predict_rows(head.modules_, replace(as_unseen(data), reference=data))
            for data in (replace(head._reference_rows, shown=torch.from_numpy(z)) for z in (noise, -noise))
        )
        followed[name] = np.corrcoef((told - turned).ravel(), noise[found.index[:, 0]].ravel())[0, 1]
    assert followed["strangers"] > 0.8
    assert abs(followed["twins"]) < 0.2


def test_impossible_options_are_refused():
    table = made_up(spots=10)
    with pytest.raises(HeadError, match="mode='papers': nh2st has default, context, paper"):
        NH2ST(mode="papers").fit(table)
    with pytest.raises(HeadError, match="neighbours='both': nh2st in mode paper has space alone"):
        NH2ST(mode="paper", neighbours="both").fit(table)
    with pytest.raises(HeadError, match="contrast=-1: give a weight of 0 or more"):
        NH2ST(contrast=-1).fit(table)
    with pytest.raises(HeadError, match="neighbours='near': choose off, space, feature, both"):
        NH2ST(neighbours="near").fit(table)


@pytest.mark.parametrize("neighbours", ["off", "space", "feature", "both"])
@pytest.mark.parametrize("contrast", [0.0, 0.02])
def test_every_kind_of_neighbours_trains_with_and_without_contrast(neighbours, contrast):
    """The contrast of a spot with its own genes needs these, whatever lies around."""
    head = NH2ST(neighbours=neighbours, contrast=contrast, dim=8, epochs=2, members=1)
    table = made_up("AB", spots=20)
    head.fit(table)
    assert np.isfinite(head.predict(unseen(table, spots=10)[1])).all()
    assert ("temperature" in head.chosen_) == (contrast > 0)
