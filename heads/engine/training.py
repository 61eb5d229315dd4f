"""The training loop that neural heads share: batches within slides, AdamW with a cosine schedule, exact seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .loss import regression_loss


@dataclass(frozen=True)
class TrainingOptions:
    """How a module is trained.

    Attributes
    ----------
    batch
        Most rows of one step; all rows of a step are of one slide.
    warmup
        Fraction of the steps over which the rate rises to `lr`, before the cosine brings it to zero.
    clip
        Largest norm of the gradient.
    """

    epochs: int = 10
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.05
    pearson_weight: float = 0.5
    warmup: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class TrainingRows:
    """What a module learns from, on its device.

    Attributes
    ----------
    x
        (n, d) features.
    y
        (n, g) targets, centred per slide and of unit spread per gene.
    weight
        (n,).
    slide
        (n,) slide of each row.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    slide: Tensor

    def rows(self, index: Tensor) -> TrainingRows:
        """Some of the rows."""
        return TrainingRows(self.x[index], self.y[index], self.weight[index], self.slide[index])


def train(
    module: nn.Module,
    rows: TrainingRows,
    options: TrainingOptions,
    *,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
) -> tuple[float, ...]:
    """Train `module` in place.

    Parameters
    ----------
    module
        Maps (b, d) to (b, g).
    seed
        Of the batches and of dropout; the same seed gives the same weights on the same machine.
    after_epoch
        Called with the number of epochs done, the module in training mode.

    Returns
    -------
    tuple of float
        Mean loss of every epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)
    in_epoch = sum(1 for _ in _batches(rows.slide, options.batch, torch.Generator()))
    steps, usual = options.epochs * in_epoch, rows.weight.sum() / in_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, options.warmup))
    module.train()
    curve = []
    for epoch in range(1, options.epochs + 1):
        losses = []
        for index in _batches(rows.slide, options.batch, generator):
            part = rows.rows(index)
            loss = regression_loss(module(part.x), part.y, part.weight, pearson_weight=options.pearson_weight)
            loss = loss * (part.weight.sum() / usual)  # a shallow or small slide moves the weights less
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), options.clip)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        curve.append(float(torch.stack(losses).mean()))
        if after_epoch is not None:
            after_epoch(epoch)
            module.train()
    module.eval()
    return tuple(curve)


def _batches(slide: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each step: every slide cut into equal parts of at most `batch` rows, parts in random order."""
    parts: list[Tensor] = []
    for one in torch.unique(slide):
        rows = torch.nonzero(slide == one).squeeze(1)
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        parts += torch.tensor_split(rows[order], math.ceil(len(rows) / batch))
    for i in torch.randperm(len(parts), generator=generator).tolist():
        yield parts[i]


def _rate(step: int, steps: int, warmup: float) -> float:
    """Fraction of the learning rate: linear rise, cosine to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
