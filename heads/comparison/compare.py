"""Every head and every control on the same folds, over every set of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ...store.errors import HeadError, ProtocolError, TissuaryError
from ...store.store import Store
from ..linear.ridge import forget_design
from ..protocols.counts import SpotCounts
from ..protocols.protocol import Protocol
from ..protocols.splits import patient_warnings
from ..protocols.targets import TARGET_RULES
from ..registry import HEADS
from .ceiling import protocol_ceilings
from .comparison import Comparison
from .details import gene_maps, genes_without_map, head_details
from .parallel import train_groups
from .plan import CompareOptions, ComparisonPlan, common_identity, make_plan
from .preparation import Prepared, prepare_cohort
from .results import Results, line_of
from .results_file import provenance, synthetic_sentence
from .trials import TrialCache, TrialPlan, run_cell, scored

__all__ = ["CompareOptions", "Progress", "compare"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, cells done, and cells in all."""


def compare(
    store: Store | Path | str, *, options: CompareOptions | None = None, progress: Progress | None = None
) -> Comparison:
    """Train and score heads and controls on the same folds of a store, given as such or as its path.

    Returns
    -------
    Comparison
        One record per head, features, protocol and fold, and one of fold "all"; maps of a best and a median gene;
        warnings.

    Raises
    ------
    TissuaryError
        If a head, protocol or feature key does not exist, or the cohort is too small for the protocol.
    """
    store = store if isinstance(store, Store) else Store(store)
    options = options or CompareOptions()
    options = replace(options, patches=store.patch_set(options.patches))
    plan = make_plan(store, options)
    results = Results(impossible=dict(plan.impossible))
    with ExitStack() as stack:
        if options.cells is None and (options.jobs > 1 or options.engine != "local"):
            options = replace(options, cells=Path(stack.enter_context(TemporaryDirectory())))
        if options.jobs > 1 or options.engine != "local":
            train_groups(store.path, options, plan, progress=progress)
        _run(plan, results, options=options, progress=progress)
    if not results.records and results.impossible:
        raise ProtocolError("; ".join(f"{name}: {reason}" for name, reason in results.impossible.items()))
    results.add_aggregates()
    ran = tuple(one.protocol for one in plan.plans if one.protocol.name not in results.impossible)
    unit = TARGET_RULES[ran[0].target].unit
    maps = gene_maps(store, results.records, results.held_out, genes=options.genes, score=ran[0].score, unit=unit)
    origin = provenance(store, plan.table, plan.sets, options=options)
    synthetic = synthetic_sentence(origin)
    missing = (*_missing_controls(results), *genes_without_map(options.genes, maps))
    return Comparison(
        protocols=ran,
        records=tuple(results.records),
        warnings=(
            *((synthetic,) if synthetic else ()),
            *patient_warnings(plan.table.patient_ids),
            *plan.warnings,
            *missing,
        ),
        skipped=(
            *((f"every head ({name})", reason) for name, reason in results.impossible.items()),
            *((f"{line[-1]} ({line[0]})", reason) for line, reason in results.skipped.items()),
        ),
        maps=maps,
        provenance=origin,
        folds=results.folds,
        details=head_details(results.held_out),
        ceilings=protocol_ceilings(ran, SpotCounts.of(plan.table), results.held_out, seed=options.seed),
    )


def _run(plan: ComparisonPlan, results: Results, *, options: CompareOptions, progress: Progress | None) -> None:
    folder, done = TrialCache(options.cells), 0
    total = sum(len(group.cells) for group in plan.groups)
    for one in plan.plans:
        with _protocol_may_fail(one.protocol, results, alone=len(plan.plans) == 1 and not plan.impossible):
            cohort = prepare_cohort(plan.table, one.protocol)
            for group in one.groups(plan.sets, plan.seed):
                prepared = group.prepare(cohort)
                results.add_fold(one.protocol, group.fold, prepared)
                common = common_identity(folder, prepared, group.cells)
                for cell in group.cells:
                    if progress is not None:
                        progress(f"{cell.protocol.name} / {group.fold.name} / {cell.contestant.label}", done, total)
                    done += 1
                    _run_one(cell, prepared, results, folder=folder, common=common)
    forget_design()
    if progress is not None:
        again = f" ({folder.taken} cells were trained before)" if folder.taken else ""
        progress(f"done{again}, now maps and ceilings", total, total)


def _run_one(
    cell: TrialPlan, prepared: Prepared, results: Results, *, folder: TrialCache, common: dict[str, str]
) -> None:
    if line_of(cell) in results.skipped:
        return
    try:
        trained = run_cell(cell, prepared, cells=folder, common=common)
        results.add(cell, *scored(cell, prepared, trained))
    except HeadError as error:
        results.skip(cell, str(error))


@contextmanager
def _protocol_may_fail(protocol: Protocol, results: Results, *, alone: bool) -> Iterator[None]:
    """A protocol that these slides do not allow costs itself, unless it is the only one."""
    try:
        yield
    except TissuaryError as error:
        if alone:
            raise
        results.give_up(protocol, str(error))


def _missing_controls(results: Results) -> tuple[str, ...]:
    """A sentence for each control that did not run: without it the floor may lie lower than it should."""
    return tuple(
        f"control {label} was not run under {protocol}, so the floor shown may be too low"
        for protocol, _, _, label in results.skipped
        if label in HEADS and HEADS[label].control
    )
