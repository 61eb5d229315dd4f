"""The training loop: the loss by hand, batches within slides, and seeds that mean something."""

import numpy as np
import pytest
import torch

from tissuary.heads.engine.loss import regression_loss, weighted_pearson
from tissuary.heads.engine.training import TrainingOptions, TrainingRows, train


def rows(n=60, d=5, g=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    y = x[:, :g] * torch.tensor([1.0, -1.0, 0.5])
    return TrainingRows(x, y, torch.ones(n), torch.arange(n) // 20)


def test_the_loss_is_weighted_squares_plus_one_minus_weighted_correlation():
    rng = np.random.default_rng(0)
    p, t, w = rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), rng.uniform(0.1, 1, size=9)
    share = w / w.sum()
    squares = np.mean([(share * (p[:, g] - t[:, g]) ** 2).sum() for g in range(4)])
    correlation = np.mean([np.cov(p[:, g], t[:, g], aweights=w)[0, 1] / np.sqrt(
        np.cov(p[:, g], aweights=w) * np.cov(t[:, g], aweights=w)) for g in range(4)])  # fmt: skip
    found = regression_loss(*map(torch.from_numpy, (p, t, w)), pearson_weight=0.7)
    assert float(found) == pytest.approx(squares + 0.7 * (1 - correlation), abs=1e-5)
    assert float(regression_loss(*map(torch.from_numpy, (p, t, w)), pearson_weight=0.0)) == pytest.approx(squares)


def test_a_constant_prediction_has_a_finite_gradient():
    prediction = torch.zeros(6, 2, requires_grad=True)
    weighted_pearson(prediction, torch.randn(6, 2), torch.full((6, 1), 1 / 6)).sum().backward()
    assert torch.isfinite(prediction.grad).all()


def test_every_step_sees_rows_of_one_slide_and_an_epoch_sees_all():
    data, seen = rows(), []

    class Watching(torch.nn.Linear):
        def forward(self, x):
            seen.append([int(torch.nonzero((data.x == row).all(1))[0]) for row in x])
            return super().forward(x)

    train(Watching(5, 3), data, TrainingOptions(epochs=1, batch=8), seed=0)
    assert all(len({row // 20 for row in step}) == 1 for step in seen)
    assert max(map(len, seen)) <= 8
    assert sorted(row for step in seen for row in step) == list(range(60))


def test_training_repeats_with_its_seed_and_not_with_another():
    def weights(seed):
        torch.manual_seed(5)
        module = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(5, 3))
        train(module, rows(), TrainingOptions(epochs=3, batch=16), seed=seed)
        return module[1].weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_loss_falls_and_a_light_slide_counts_less():
    module = torch.nn.Linear(5, 3)
    curve = train(module, rows(), TrainingOptions(epochs=40, batch=32, lr=0.02, weight_decay=0.0), seed=0)
    assert curve[-1] < 0.2 * curve[0]
    data = rows()
    contrary = torch.where((data.slide == 2)[:, None], -data.y, data.y)
    light = torch.where(data.slide == 2, 1e-3, 1.0)
    module = torch.nn.Linear(5, 3)
    train(module, TrainingRows(data.x, contrary, light, data.slide), TrainingOptions(epochs=60, lr=0.02), seed=0)
    heavy = data.slide != 2
    assert np.corrcoef(module(data.x)[heavy].detach().numpy().ravel(), data.y[heavy].numpy().ravel())[0, 1] > 0.98
