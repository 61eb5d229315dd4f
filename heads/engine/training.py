"""The training loop that neural heads share: batches by slide, AdamW with a cosine schedule, exact seeds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...store.arrays import Ints
from .batch import Batch, epoch_of, make_batch, steps_in_epoch
from .network import HeadModule, dropout_keys, key_at
from .rows import RowData

HALF = (torch.bfloat16, torch.float16)

P = ParamSpec("P")


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 for the matrix products where a GPU has it; elsewhere everything stays float32."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)


def in_full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Have a loss computed outside autocast, halves among its arguments widened to float32."""

    @wraps(loss)
    def outside(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        given, named = tree_map(widened, (args, kwargs))
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return loss(*given, **named)

    return outside


def widened(value: Any) -> Any:
    """Halves as float32, and all else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


EPSILON = 1e-6


@in_full_precision
def regression_loss(prediction: Tensor, batch: Batch, *, pearson_weight: float) -> Tensor:
    """Loss of the rows of a step, slide by slide; each slide counts by its share.

    Parameters
    ----------
    prediction
        (b, g); `batch.y` are targets, centred per slide and of unit spread per gene where the head wants it so.
    pearson_weight
        Weight of the correlation term; 0 leaves plain weighted least squares.
    """
    assert batch.y is not None
    w = slide_weights(batch)  # (s, b)
    loss = w @ ((prediction - batch.y) ** 2).mean(1)  # (s,)
    if pearson_weight > 0:
        loss = loss + pearson_weight * (1.0 - weighted_pearson(prediction, batch.y, w, batch.member).mean(1))
    return (batch.share * loss).sum()


def slide_weights(batch: Batch) -> Tensor:
    """Weights (s, b) of the rows of each slide, which sum to one."""
    w = batch.member * batch.weight
    return w / w.sum(1, keepdim=True).clamp_min(EPSILON)


def weighted_pearson(prediction: Tensor, target: Tensor, w: Tensor, member: Tensor) -> Tensor:
    """Pearson per slide and column (s, g) under weights (s, b) that sum to one on each slide.

    The small constant keeps the gradient finite where a prediction starts out constant.
    """
    p = prediction - member.T @ (w @ prediction)  # (b, g), each row less the mean of its slide
    t = target - member.T @ (w @ target)
    return (w @ (p * t)) / torch.sqrt((w @ p**2 + EPSILON) * (w @ t**2 + EPSILON))


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained.

    Attributes
    ----------
    batch
        Most rows of one slide in a step.
    at_least
        Rows of a step, for which parts of several slides are joined; 0 leaves one part a step.
    warmup
        Fraction of the steps over which the rate rises to `lr`, before the cosine brings it to `lr_end`.
    clip
        Largest norm of the gradient.
    pearson_weight
        Weight of 1 - within-slide Pearson beside the squared error.
    unit_spread
        Whether targets are divided by the spread of their gene.
    weighted
        Whether spots count by the weights of the table (under `strict` by their depth), or all alike.
    ema
        Decay of a moving average of the weights; where given, the average is what is evaluated and kept.
    """

    epochs: int = 10
    batch: int = 256
    at_least: int = 0
    lr: float = 2e-3
    lr_end: float = 0.0
    weight_decay: float = 0.05
    pearson_weight: float = 0.5
    warmup: float = 0.1
    clip: float = 1.0
    unit_spread: bool = True
    weighted: bool = True
    ema: float | None = None

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: linear rise, cosine to `lr_end`."""
        rise = round(self.warmup * steps)
        if step < rise:
            return self.lr * (step + 1) / rise
        cosine = 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
        return self.lr_end + (self.lr - self.lr_end) * cosine


@dataclass(frozen=True)
class NetworkRun:
    """One network to train.

    Attributes
    ----------
    module
        Trained in place.
    data
        Rows of the training table.
    rows
        Those of them that are learnt from.
    seed
        Of the batches and of dropout; the same seed gives the same weights on the same machine.
    """

    module: HeadModule
    data: RowData
    rows: Ints
    options: TrainingOptions
    seed: int

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Epoch and batch of every step."""
        generator = torch.Generator().manual_seed(self.seed)
        total = float(self.data.weight[torch.from_numpy(self.rows).to(self.data.weight.device)].sum())
        o, slide = self.options, self.data.slide
        usual = total / steps_in_epoch(slide, self.rows, batch=o.batch, at_least=o.at_least)
        for epoch in range(o.epochs):
            for rows in epoch_of(slide, self.rows, batch=o.batch, at_least=o.at_least, generator=generator):
                yield epoch, make_batch(self.data, rows, usual_weight=usual)

    @property
    def steps(self) -> int:
        """Steps in all, about."""
        o = self.options
        return o.epochs * steps_in_epoch(self.data.slide, self.rows, batch=o.batch, at_least=o.at_least)


def train(run: NetworkRun) -> tuple[float, ...]:
    """Train a network alone.

    Returns
    -------
    tuple of float
        Mean loss of every epoch.
    """
    module, options, keys = run.module, run.options, dropout_keys(run.module, seed=run.seed)
    buffers = dict(module.named_buffers())
    optimiser = torch.optim.AdamW(module.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)
    average = None if options.ema is None else copy.deepcopy(module)
    losses: list[list[Tensor]] = [[] for _ in range(options.epochs)]
    steps = run.steps
    module.train()
    for step, (epoch, batch) in enumerate(run.batches()):
        for group in optimiser.param_groups:
            group["lr"] = options.rate(step, steps)
        for name, first in keys.items():
            buffers[name].fill_(key_at(first, step))
        if "epoch" in buffers:  # a network whose loss changes with the epoch
            buffers["epoch"].fill_(epoch)
        with half_precision(batch.weight.device):
            loss = loss_of(module, batch, pearson_weight=options.pearson_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), options.clip)
        optimiser.step()
        losses[epoch].append(loss.detach())
        if average is not None and options.ema is not None:
            follow(average, module, decay=min(options.ema, (step + 1) / (step + 10)))
    if average is not None:
        module.load_state_dict(average.state_dict())
    module.eval()
    return tuple(float(torch.stack(epoch).mean()) for epoch in losses)


def loss_of(module: HeadModule, batch: Batch, *, pearson_weight: float) -> Tensor:
    """Loss of a training batch: regression on the prediction, and what the network adds."""
    prediction, extra = module.step(batch)
    loss = batch.weight.new_zeros(())
    if prediction is not None:
        loss = regression_loss(widened(prediction), batch, pearson_weight=pearson_weight)
    return loss if extra is None else loss + widened(extra)


def follow(average: nn.Module, module: nn.Module, *, decay: float) -> None:
    """Move a running average of the weights towards a network."""
    with torch.no_grad():
        for mean, now in zip(average.parameters(), module.parameters(), strict=True):
            mean.lerp_(now, 1.0 - decay)
