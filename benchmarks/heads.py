"""How close the engine's training comes to the bare network, what a head costs, and what stacking and xformers bring.

    python -m tissuary.benchmarks.heads [--small] [--device auto] [--threads 1] [--heads ridge mlp ...] [--folds 1]

`train`: spots/s of one epoch by the engine (batches gathered, loss, gradients clipped, AdamW, schedule) over forward
and backward of the same network with the same loss on the same batches, made beforehand and without an optimiser.
`seconds`: fit and prediction of `--folds` of the eight folds, times eight over that number; said so where it is not
all. `stacked`: eight folds trained as one network of stacked parameters, against one after the other. `xformers`:
attention over ragged neighbourhoods, forward and backward, against torch's own; CUDA only. On a CPU seconds of the
processor are counted, which other work on the machine disturbs less, on a GPU those of the clock.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..heads import make_head
from ..heads.engine.attention import attend, attention_backend
from ..heads.engine.batch import Batch
from ..heads.engine.device import device_of, keep_freed_memory
from ..heads.engine.head import NeuralHead
from ..heads.engine.network import HeadModule, NetworkShape
from ..heads.engine.rows import RowData
from ..heads.engine.stacked import train_all
from ..heads.engine.training import NetworkRun, half_precision, loss_of, train
from ..heads.linear.ridge import forget_design
from ..store.errors import MissingDependencyError, TissuaryError
from ..store.table import Table
from .heads_cohort import Size, cohort, fold_of

GOAL, STACKED_GOAL = 0.9, 5.0
ROUNDS = 3
SMALL = Size(rows=1600, dim=256, slides=12, patients=4)
TRAINED = {
    "mlp": {},
    "mmap": {"neighbours": "space"},
    "nh2st": {},
    "triplex": {},
}
"""Networks whose training is held against the bare network."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a cohort a tenth the size: a minute in all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", nargs="*", help="heads whose seconds are taken; none with an empty list")
    parser.add_argument("--folds", type=int, default=1, help="folds that are run for the seconds of a head")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `compare` and `train` do
    device, size = device_of(options.device), SMALL if options.small else Size()
    table = cohort(size)
    print(f"{size.rows} spots x {size.dim} x {size.views} views, {size.patients} patients, on {device}")
    lines = [_training(name, table, device) for name in TRAINED]
    named = (["ridge"] if options.small else ["ridge", "knn", *TRAINED]) if options.heads is None else options.heads
    _seconds(named, table, folds=options.folds, device=options.device)
    lines.append(_stacked(table, device, runs=size.patients))
    lines += _attention(device)
    print("\n".join(line for line in lines if line))


def _training(name: str, table: Table, device: torch.device) -> str:
    """Spots/s of the engine over those of the bare network, the median of pairs of measurements."""
    run = _run(name, table, device)
    run.module.to(device)
    warm = [batch for _, batch in run.batches()]
    bare_module = copy.deepcopy(run.module)
    rows = len(run.rows)
    pairs = []
    for _ in range(ROUNDS):
        bare = _timed(lambda: _bare(bare_module, warm), device)
        ours = _timed(lambda: train(run), device)
        pairs.append((bare, ours))
    ratio = float(np.median([bare / ours for bare, ours in pairs]))
    bare, ours = (float(np.median(one)) for one in zip(*pairs, strict=True))
    print(f"train {name:8s} engine {rows / ours:9.0f} spots/s, bare network {rows / bare:9.0f} spots/s")
    return f"heads_train_{name} ratio={ratio:.2f} goal={GOAL}"


def _bare(module: HeadModule, batches: Sequence[Batch]) -> None:
    """Forward and backward, and nothing else."""
    module.train()
    for batch in batches:
        module.zero_grad(set_to_none=True)
        with half_precision(batch.weight.device):
            loss = loss_of(module, batch, pearson_weight=0.5)
        loss.backward()  # type: ignore[no-untyped-call]


def _run(name: str, table: Table, device: torch.device, *, rows: np.ndarray | None = None, seed: int = 0) -> NetworkRun:
    """One epoch of a head's network on all rows, or on some."""
    head: Any = make_head(name, **TRAINED.get(name, {}), device=str(device))
    assert isinstance(head, NeuralHead) and table.targets is not None
    columns = head.columns(table)
    data: RowData = head._rows(table).with_targets(table.targets)
    shape = NetworkShape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), table.targets.shape[1])
    torch.manual_seed(seed)
    module = head.build(shape)
    every = np.arange(len(table)) if rows is None else rows
    return NetworkRun(module.to(device), data, every, replace(head.training, epochs=1, pearson_weight=0.5), seed)


def _seconds(names: Sequence[str], table: Table, *, folds: int, device: str) -> None:
    """Print what every head costs for all folds."""
    patients = sorted(set(table.patient_ids))
    for name in names:
        forget_design()
        seconds = 0.0
        try:
            for patient in patients[:folds]:
                train_table, test = fold_of(table, patient)
                head = make_head(name)
                if hasattr(head, "device"):
                    head.device = device
                seconds += _timed(lambda: head.fit(train_table).predict(test), device_of(device))  # noqa: B023
        except TissuaryError as error:
            print(f"seconds {name:8s} does not run here: {error}")
            continue
        whole = seconds * len(patients) / folds
        told = "" if folds >= len(patients) else f" ({folds} measured, times {len(patients) / folds:g})"
        print(f"seconds {name:8s} {whole:8.1f} s for all {len(patients)} folds{told}")


def _stacked(table: Table, device: torch.device, *, runs: int) -> str:
    """Folds of one head together, over one by one."""
    base = _run("mlp", table, device)
    patients = np.array(table.patient_ids)[table.slide]
    seconds = {}
    for together in (True, False):
        every = []
        for seed, patient in enumerate(sorted(set(table.patient_ids))[:runs]):
            torch.manual_seed(seed)
            rows = np.flatnonzero(patients != patient)
            every.append(replace(base, module=copy.deepcopy(base.module), rows=rows, seed=seed))
        seconds[together] = _timed(lambda: train_all(every, together=together), device)  # noqa: B023
    print(f"stacked mlp: {runs} folds together {seconds[True]:.2f} s, one by one {seconds[False]:.2f} s an epoch")
    goal = STACKED_GOAL if device.type == "cuda" else 1.0
    return f"heads_stacked ratio={seconds[False] / seconds[True]:.2f} goal={goal}"


def _attention(device: torch.device) -> list[str]:
    """xformers against torch's own kernels on ragged neighbourhoods."""
    if device.type != "cuda":
        print("xformers: its kernels run on CUDA alone, so it is not measured here")
        return []
    b, k, d = 4096, 32, 128
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(b, 1, d, generator=generator), torch.randn(b, k, d, generator=generator)
    mask = (torch.rand(b, k, generator=generator) < 0.5).to(device)
    query, keys = (x.to(device, torch.bfloat16).requires_grad_() for x in (query, keys))

    def run() -> None:
        for _ in range(20):
            attend(query, keys, keys, heads=4, mask=mask).float().square().sum().backward()  # type: ignore[no-untyped-call]

    seconds = {}
    for name in ("sdpa", "xformers"):
        try:
            with attention_backend(name):
                run()
                seconds[name] = min(_timed(run, device) for _ in range(ROUNDS))
        except (TissuaryError, MissingDependencyError) as error:
            print(f"xformers: {error}")
            return []
    print(f"attention over {b} x {k} ragged: sdpa {seconds['sdpa']:.3f} s, xformers {seconds['xformers']:.3f} s")
    return [f"heads_xformers ratio={seconds['sdpa'] / seconds['xformers']:.2f} goal=1.0"]


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the processor on a CPU, of the clock on a GPU."""
    if device.type != "cuda":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
