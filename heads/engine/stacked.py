"""Several networks of one architecture trained together: their parameters stacked, every step one larger product."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from .batch import Batch, stacked
from .network import HeadModule, dropout_keys, key_at
from .training import NetworkRun, half_precision, loss_of, train

Parameters = dict[str, Tensor]


class _Loss(torch.nn.Module):
    """A network's loss as its forward, which is what `functional_call` runs."""

    def __init__(self, module: HeadModule, pearson_weight: float) -> None:
        super().__init__()
        self.module, self.pearson_weight = module, pearson_weight

    def forward(self, batch: Batch) -> Tensor:
        return loss_of(self.module, batch, pearson_weight=self.pearson_weight)


def train_all(runs: Sequence[NetworkRun], *, together: bool | None = None) -> list[tuple[float, ...]]:
    """Train networks that share their architecture; they may differ in rows, targets, seed and epochs.

    Parameters
    ----------
    together
        True stacks them, False trains one by one, None stacks on a GPU, where a single small network leaves most of
        the device idle. Both ways draw the same batches and the same dropout; results differ by rounding (in float64,
        the tests hold losses to 1e-8).

    Returns
    -------
    list
        Mean loss of every epoch, per run.
    """
    if together is None:
        together = len(runs) > 1 and runs[0].data.features.device.type == "cuda"
    return _train_stacked(runs) if together and len(runs) > 1 else [train(run) for run in runs]


def _train_stacked(runs: Sequence[NetworkRun]) -> list[tuple[float, ...]]:
    options = runs[0].options
    wrapped = [_Loss(run.module, options.pearson_weight) for run in runs]
    parameters, buffers = stack_module_state(wrapped)
    learnt = {name for name, p in wrapped[0].named_parameters() if p.requires_grad}
    parameters = {name: p.detach().requires_grad_(name in learnt) for name, p in parameters.items()}
    skeleton = copy.deepcopy(wrapped[0]).to("meta").train()
    keys = [dropout_keys(one, seed=run.seed) for one, run in zip(wrapped, runs, strict=True)]

    def loss(p: Parameters, b: Parameters, batch: Batch) -> Tensor:
        out: Tensor = functional_call(skeleton, (p, b), (batch,))
        return out

    # A rate of 1 here: every run's own rate scales the finished update, so that schedules may differ in length.
    optimiser = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=options.weight_decay, fused=True)
    average = None if options.ema is None else {name: p.detach().clone() for name, p in parameters.items()}
    losses: list[list[list[Tensor]]] = [[[] for _ in range(run.options.epochs)] for run in runs]
    streams, totals = [run.batches() for run in runs], [run.steps for run in runs]
    last: list[Batch | None] = [None] * len(runs)
    step = 0
    while True:
        drawn = [next(stream, None) for stream in streams]
        alive = torch.tensor([one is not None for one in drawn])
        if not alive.any():
            break
        last = [old if new is None else new[1] for old, new in zip(last, drawn, strict=True)]
        for name in keys[0]:
            values = [key_at(key[name], step) for key in keys]
            buffers[name].copy_(torch.tensor(values, dtype=torch.int32))
        if "module.epoch" in buffers:
            buffers["module.epoch"].copy_(torch.tensor([0 if one is None else one[0] for one in drawn]))
        batch = stacked([one for one in last if one is not None])
        with half_precision(batch.weight.device):
            along = tree_map(lambda part: None if part is None else 0, batch)
            each = vmap(loss, in_dims=(0, 0, along))(parameters, buffers, batch)  # (runs,)
        optimiser.zero_grad(set_to_none=True)
        each.sum().backward()  # type: ignore[no-untyped-call]
        _clip_each(parameters, options.clip)
        rates = [run.options.rate(step, total) for run, total in zip(runs, totals, strict=True)]
        _step_each(optimiser, parameters, torch.tensor(rates, dtype=torch.float64) * alive)
        if average is not None and options.ema is not None:
            decay = min(options.ema, (step + 1) / (step + 10))
            _follow_each(average, parameters, decay=decay, alive=alive)
        for i, one in enumerate(drawn):
            if one is not None:
                losses[i][one[0]].append(each[i].detach())
        step += 1
    _hand_back(runs, parameters if average is None else average)
    return [tuple(float(torch.stack(epoch).mean()) for epoch in run) for run in losses]


def _clip_each(parameters: Parameters, most: float) -> None:
    """Scale the gradient of every run to a norm of at most `most`, as `clip_grad_norm_` does for one."""
    grads = [p.grad for p in parameters.values() if p.grad is not None]
    norm = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()  # (runs,)
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(_over_runs(factor, grad))


def _step_each(optimiser: torch.optim.Optimizer, parameters: Parameters, rates: Tensor) -> None:
    before = [p.detach().clone() for p in parameters.values()]
    optimiser.step()
    with torch.no_grad():
        for p, old in zip(parameters.values(), before, strict=True):
            p.copy_(torch.lerp(old, p, _over_runs(rates.to(p), p)))


def _follow_each(average: Parameters, parameters: Parameters, *, decay: float, alive: Tensor) -> None:
    with torch.no_grad():
        for name, p in parameters.items():
            average[name].lerp_(p, _over_runs((1.0 - decay) * alive.to(p), p))


def _over_runs(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1)).expand_as(like)


def _hand_back(runs: Sequence[NetworkRun], parameters: Parameters) -> None:
    with torch.no_grad():
        for i, run in enumerate(runs):
            for name, p in run.module.named_parameters():
                p.copy_(parameters[f"module.{name}"][i])
            run.module.eval()
