"""Folds of a comparison trained at the same time: in processes of this machine, or as tasks of a Ray cluster.

Workers leave their cells in the comparison's folder; the comparison then takes them from there, as it takes those of
an earlier run. So it does not matter who trained what, and whatever a worker did not finish is trained in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from ...store.errors import HeadError, TissuaryError
from ...store.limits import deaf_to_interrupts, usable_cores
from ...store.store import Store
from ..engine.device import keep_freed_memory
from .plan import CompareOptions, ComparisonPlan, Group, common_identity, make_plan
from .preparation import ProtocolCohort, prepare_cohort
from .trials import TrialCache, run_cell

log = logging.getLogger(__name__)

ENGINES = ("local", "ray")


def train_groups(
    store: Path, options: CompareOptions, plan: ComparisonPlan, *, progress: Callable[[str, int, int], None] | None
) -> None:
    """Train every group of cells, several at a time, into the folder of cells.

    Raises
    ------
    HeadError
        If there is no such engine, or Ray is not installed.
    """
    if options.engine not in ENGINES:
        msg = f"engine {options.engine!r}: choose {', '.join(ENGINES)}"
        raise HeadError(msg)
    groups = plan.groups
    run = _in_processes if options.engine == "local" else _on_ray
    if progress is not None:
        progress(f"{min(options.jobs, len(groups))} folds at a time", 0, len(groups))
    for done, number in enumerate(run(store, options, len(groups)), start=1):
        if progress is not None:
            group = groups[number]
            progress(f"trained: {group.protocol.name} / {group.fold.name}", done, len(groups))


def train_group(store: Path, options: CompareOptions, number: int, threads: int) -> int:
    """Train one group of cells; what fails is met, and told, by the comparison itself."""
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    group, cohort = _group(store, options, number)
    if cohort is None:
        return number
    try:
        prepared = group.prepare(cohort)
    except TissuaryError as error:
        log.info("%s / %s: %s", group.protocol.name, group.fold.name, error)
        return number
    folder = TrialCache(options.cells)
    common = common_identity(folder, prepared, group.cells)
    for cell in group.cells:
        try:
            run_cell(cell, prepared, cells=folder, common=common)
        except HeadError as error:
            log.info("%s: %s", cell.contestant.label, error)
    return number


def _group(store: Path, options: CompareOptions, number: int) -> tuple[Group, ProtocolCohort | None]:
    plan = _plan(store, options)
    group = plan.groups[number]
    names = [one.protocol.name for one in plan.plans]
    return group, _cohort(store, options, names.index(group.protocol.name))


@lru_cache(maxsize=1)
def _plan(store: Path, options: CompareOptions) -> ComparisonPlan:
    """A worker opens the store once."""
    return make_plan(Store(store), options)


@lru_cache(maxsize=1)
def _cohort(store: Path, options: CompareOptions, protocol: int) -> ProtocolCohort | None:
    plan = _plan(store, options)
    try:
        return prepare_cohort(plan.table, plan.plans[protocol].protocol)
    except TissuaryError as error:
        log.info("%s: %s", plan.plans[protocol].protocol.name, error)
        return None


def _in_processes(store: Path, options: CompareOptions, groups: int) -> Iterator[int]:
    """Numbers of groups as they are done; a dead process costs what it had not kept."""
    jobs = min(options.jobs, groups)
    threads = max(1, usable_cores() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        with deaf_to_interrupts():
            futures = [pool.submit(train_group, store, options, number, threads) for number in range(groups)]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            log.warning("a training process died (%s): what is left is trained one after the other", error)
        except KeyboardInterrupt:
            for process in active_children():  # whole cells are kept, and nobody waits for the others
                process.terminate()
            raise


def _on_ray(store: Path, options: CompareOptions, groups: int) -> Iterator[int]:
    """Numbers of groups as they are done; a task whose node dies runs again elsewhere."""
    try:
        import ray
    except ImportError as error:
        msg = 'engine ray needs Ray: pip install "tissuary[ray]"'
        raise HeadError(msg) from error
    if not ray.is_initialized():
        ray.init(address=options.address, log_to_driver=False)
    task: Any = ray.remote(num_cpus=1, max_retries=3)(train_group)
    open_ = [task.remote(store.absolute(), options, number, 1) for number in range(groups)]
    while open_:
        ready, open_ = ray.wait(open_)
        yield from ray.get(ready)
