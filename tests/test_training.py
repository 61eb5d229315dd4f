"""The training loop: the loss by hand, batches within slides, seeds that mean something, stacked as one by one."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tissuary.heads.engine.batch import Batch, epoch_of, make_batch, stacked
from tissuary.heads.engine.device import keep_freed_memory
from tissuary.heads.engine.head import member_seeds
from tissuary.heads.engine.network import HeadModule, SeededDropout, dropout_keys, key_at
from tissuary.heads.engine.stacked import train_all
from tissuary.heads.engine.training import (
    NetworkRun,
    TrainingOptions,
    regression_loss,
    slide_weights,
    train,
    weighted_pearson,
)
from tissuary.tests.engine_rows import Linear, assert_stacked_is_one_by_one, every, row_data
from tissuary.tests.head_tables import made_up


def batch_of(slide, weight, y, **fields):
    """A batch of rows of several slides."""
    member = torch.stack([torch.tensor(slide == one, dtype=torch.float64) for one in np.unique(slide)])
    w = torch.from_numpy(weight)
    rows = torch.arange(len(slide))
    return Batch((y,), rows, member, member @ w / w.sum(), w, torch.zeros(len(slide), 2), y=y, **fields)


def test_the_loss_is_weighted_squares_plus_one_minus_weighted_correlation_slide_by_slide():
    rng = np.random.default_rng(0)
    p, t, w = rng.normal(size=(19, 4)), rng.normal(size=(19, 4)), rng.uniform(0.1, 1, size=19)
    slide = np.repeat([0, 1], [9, 10])
    expected = squares = 0.0
    for one in (0, 1):
        here = slide == one
        share = w[here] / w[here].sum()
        mse = np.mean([(share * (p[here, g] - t[here, g]) ** 2).sum() for g in range(4)])
        cov = [np.cov(p[here, g], t[here, g], aweights=w[here]) for g in range(4)]
        correlation = np.mean([c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in cov])
        squares += w[here].sum() / w.sum() * mse
        expected += w[here].sum() / w.sum() * (mse + 0.7 * (1 - correlation))
    batch = batch_of(slide, w, torch.from_numpy(t))
    assert float(regression_loss(torch.from_numpy(p), batch, pearson_weight=0.7)) == pytest.approx(expected, abs=1e-5)
    assert float(regression_loss(torch.from_numpy(p), batch, pearson_weight=0.0)) == pytest.approx(squares)


def test_padding_changes_no_loss():
    data = row_data()
    batches = [make_batch(data, rows, usual_weight=3.0) for rows in (np.arange(50), np.arange(40, 47))]
    both = stacked(batches)
    for i, batch in enumerate(batches):
        one = Batch(
            *(
                None if part is None else tuple(p[i] for p in part) if isinstance(part, tuple) else part[i]
                for part in both
            )
        )
        guess = torch.randn(len(one.rows), 6, generator=torch.Generator().manual_seed(0))
        padded = regression_loss(guess, one, pearson_weight=0.5)
        alone = regression_loss(guess[: len(batch.rows)], batch, pearson_weight=0.5)
        assert float(padded) == pytest.approx(float(alone), rel=1e-6)


def test_a_constant_prediction_has_a_finite_gradient():
    prediction = torch.zeros(6, 2, requires_grad=True)
    batch = batch_of(np.zeros(6), np.ones(6), torch.randn(6, 2))
    w = slide_weights(batch).float()
    weighted_pearson(prediction, torch.randn(6, 2), w, batch.member.float()).sum().backward()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize(("at_least", "slides"), [(0, 1), (50, 8)])
def test_an_epoch_sees_every_row_once_in_parts_of_one_slide(at_least, slides):
    slide, rows = row_data().slide, np.arange(3, 200)
    steps = list(epoch_of(slide, rows, batch=16, at_least=at_least, generator=torch.Generator().manual_seed(1)))
    assert sorted(np.concatenate(steps)) == list(rows)
    assert max(len(np.unique(slide[step])) for step in steps) <= slides
    if at_least:
        assert min(map(len, steps[:-1])) >= at_least
    else:
        assert max(map(len, steps)) <= 16


def trained(*, seed, **options):
    data = row_data()
    module = torch.nn.Module()
    module = WithDropout(12, 6)
    train(NetworkRun(module, data, every(data), TrainingOptions(epochs=3, batch=16, **options), seed))
    return module.genes.weight.detach()


class WithDropout(Linear):
    def __init__(self, dim, genes, seed=5):
        super().__init__(dim, genes, seed)
        self.drop = SeededDropout(0.2)

    def forward(self, batch):
        return self.genes(self.drop(batch.own[0]))


def test_training_repeats_with_its_seed_and_not_with_another():
    assert torch.equal(trained(seed=1), trained(seed=1))
    assert not torch.equal(trained(seed=1), trained(seed=2))


def test_the_loss_curve_falls_to_least_squares():
    table = made_up(noise=0.0, dim=5)
    data, module = row_data(table), Linear(5, 6)
    curve = train(NetworkRun(module, data, every(data), TrainingOptions(epochs=60, lr=0.05, weight_decay=0.0), 0))
    assert curve[-1] < 0.02 * curve[0]
    loading = np.linalg.lstsq(table.features(), table.targets, rcond=None)[0]
    np.testing.assert_allclose(module.genes.weight.detach().numpy(), loading.T, atol=0.1)


def test_rows_of_no_weight_teach_nothing():
    table = made_up(noise=0.0, dim=5)
    contrary = table.slide % 2 == 1
    weights = np.where(contrary, 0.0, 1.0).astype(np.float32)
    spoilt = replace(table, targets=np.where(contrary[:, None], -table.targets, table.targets), weights=weights)
    found = []
    for one in (spoilt, replace(table, weights=weights)):
        data, module = row_data(one), Linear(5, 6)
        train(NetworkRun(module, data, every(data), TrainingOptions(epochs=5, weight_decay=0.0), 0))
        found.append(module.genes.weight.detach())
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_the_rate_rises_and_falls_along_a_cosine():
    options = TrainingOptions(lr=2.0, lr_end=0.5, warmup=0.1)
    rates = [options.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.25)
    assert rates[100] == pytest.approx(0.5)


def test_the_average_of_the_weights_is_what_is_kept():
    """With decay (step + 1) / (step + 10) below the ceiling, the average can be followed by hand."""
    data, followed = row_data(), []

    class Watched(Linear):
        def forward(self, batch):
            followed.append(self.genes.weight.detach().clone())
            return super().forward(batch)

    options = TrainingOptions(epochs=2, batch=1000, ema=0.999)
    module = Watched(12, 6)
    train(NetworkRun(module, data, every(data), options, 0))
    plain = Linear(12, 6)
    train(NetworkRun(plain, data, every(data), replace(options, ema=None), 0))
    mean = followed[0]
    for step, weights in enumerate([*followed[1:], plain.genes.weight.detach()]):
        decay = (step + 1) / (step + 10)
        mean = decay * mean + (1 - decay) * weights
    torch.testing.assert_close(module.genes.weight.detach(), mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_stacked_training_equals_one_by_one_with_other_rows_targets_seeds_and_epochs(ema):
    data = row_data()
    other = data.with_targets(np.random.default_rng(1).normal(size=data.y.shape))
    half = np.flatnonzero(data.slide < 4)

    def runs():
        options = TrainingOptions(epochs=3, batch=40, at_least=60, clip=0.2, ema=ema)
        plan = [(data, every(data), 3, 0), (data, half, 5, 1), (other, half[::2], 2, 2)]
        return [NetworkRun(WithDropout(12, 6, seed), d, r, replace(options, epochs=e), seed) for d, r, e, seed in plan]

    assert_stacked_is_one_by_one(runs)


def test_what_is_frozen_stays_when_networks_are_stacked():
    data = row_data()
    runs = [NetworkRun(WithDropout(12, 6, seed), data, every(data), TrainingOptions(epochs=2), seed) for seed in (0, 1)]
    before = [run.module.genes.bias.clone() for run in runs]
    for run in runs:
        run.module.genes.bias.requires_grad_(False)
    train_all(runs, together=True)
    for run, bias in zip(runs, before, strict=True):
        assert torch.equal(run.module.genes.bias, bias)


def test_heads_of_different_seeds_share_no_network():
    seeds = [member_seeds(seed, 3) for seed in range(5)]
    assert len({one for seed in seeds for one in seed}) == 15
    assert member_seeds(2, 1) == seeds[2][:1]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_loss_is_taken_in_float32(half):
    data = row_data()
    batch = make_batch(data, np.arange(50))
    guess = torch.randn(50, 6).to(half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = regression_loss(guess, batch, pearson_weight=0.5)
    assert found.dtype == torch.float32
    assert torch.equal(found, regression_loss(guess.float(), batch, pearson_weight=0.5))


def test_dropout_is_seeded_unbiased_and_different_by_layer_step_and_row():
    class Two(HeadModule):
        def __init__(self):
            super().__init__()
            self.first, self.second = SeededDropout(0.3), SeededDropout(0.3)

    module = Two().train()
    keys = dropout_keys(module, seed=4)
    assert list(keys) == ["first.key", "second.key"]
    masks = []
    for name, step in (("first", 0), ("second", 0), ("first", 1), ("first", 0)):
        layer = getattr(module, name)
        layer.key.fill_(key_at(keys[f"{name}.key"], step))
        masks.append(layer(torch.ones(400, 300)) > 0)
    assert torch.equal(masks[0], masks[3])
    for one, two in ((0, 1), (0, 2), (1, 2)):
        both = (masks[one] & masks[two]).float().mean()
        assert float(both) == pytest.approx(0.49, abs=0.01)  # independent: 0.7 x 0.7
    kept = masks[0].float()
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.005)
    assert float((kept[1:] * kept[:-1]).mean()) == pytest.approx(0.49, abs=0.01)
    assert float((kept[:, 1:] * kept[:, :-1]).mean()) == pytest.approx(0.49, abs=0.01)
    by_row = kept.mean(1)
    assert float(by_row.std()) == pytest.approx(np.sqrt(0.21 / 300), rel=0.15)  # binomial, as independent draws are
    assert torch.equal(module.eval().first(torch.ones(3, 2)), torch.ones(3, 2))


FAULTS = """
import resource, sys
import torch
from tissuary.heads.engine.device import keep_freed_memory
def steps(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        several = [torch.zeros(2**20) for _ in range(16)]  # 64 MiB, 16,384 pages, and freed together
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if not keep_freed_memory():
    sys.exit(77)
steps(5)
print(steps(20))
"""


def test_freed_memory_is_taken_again_without_asking_the_system():
    """Without the call half of the runs fault on all 20 x 16,384 pages, and half on none: layout decides."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("no glibc here, or MALLOC_* is set: its allocator is left alone")
    assert int(done.stdout) < 1_000


def test_an_allocator_that_the_user_has_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory() is False
