"""Every head and every control on the same folds, over every set of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...store.errors import HeadError, ProtocolError, TissuaryError
from ...store.naming import SPOTS
from ...store.store import Store
from ...store.table import Table
from ..registry import HEADS
from ..ridge_design import forget_design
from .cell_files import CellFolder, code_digest, prepared_digest
from .cells import CellPlan, run_cell, scored
from .comparison import Comparison
from .contestants import Contestant, contestants
from .counts import SpotCounts
from .feature_sets import FeatureSet, feature_sets
from .folds import Fold
from .gene_maps import gene_maps, genes_without_map
from .head_detail import head_details
from .preparation import Prepared, prepare, prepare_cohort
from .protocol_ceiling import protocol_ceilings
from .protocol_changes import changes_told, with_panel, with_preprocessing
from .protocol_record import FeatureStandardisation, Protocol, SpotWeight, TargetCentring
from .protocols import get_protocol
from .provenance import provenance
from .results import Results, line_of
from .splits import outer_folds, patient_warnings
from .usable import usable_table

Progress = Callable[[str, int, int], None]
"""Called with what is being done, cells done, and cells in all."""


@dataclass(frozen=True)
class CompareOptions:
    """What is compared.

    Attributes
    ----------
    heads
        Names, `head:mode`, or "all". Controls are always in the table.
    protocols
        Names of protocols, each on its own folds.
    backbones
        Parts of the feature keys before the `@`; the store's only one where empty.
    view_sets
        Views side by side, one or several sets; all that a backbone has where empty.
    standardise, centring, spot_weight
        In place of what the protocols say of features, targets and weights; the records declare it.
    panel
        A rule for genes, or their names, in place of the protocols' own.
    panel_size
        How many genes, in place of the protocols' own.
    genes
        Genes whose maps are drawn beside those of the best and a median one.
    cells
        Folder of trained cells: those of an earlier, perhaps unfinished comparison are taken, and new ones kept.
    """

    heads: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ("strict",)
    backbones: tuple[str, ...] = ()
    view_sets: tuple[tuple[str, ...], ...] = ()
    patches: str = SPOTS
    standardise: FeatureStandardisation | None = None
    centring: TargetCentring | None = None
    spot_weight: SpotWeight | None = None
    panel: str | tuple[str, ...] | None = None
    panel_size: int | None = None
    seed: int = 0
    genes: tuple[str, ...] = ()
    cells: Path | None = None


@dataclass(frozen=True)
class _Plan:
    """One protocol of a comparison."""

    protocol: Protocol
    folds: tuple[Fold, ...]
    contestants: tuple[Contestant, ...]

    def cells(self, sets: Sequence[FeatureSet], seed: int) -> Iterator[tuple[FeatureSet, Fold, list[CellPlan]]]:
        """Cells that share a preparation; heads that read no features run with the first set alone."""
        for fold in self.folds:
            for one in sets:
                able = [who for who in self.contestants if who.entry.features or one == sets[0]]
                yield (
                    one,
                    fold,
                    [CellPlan(who, self.protocol, fold, one, self.seed_of(who, seed)) for who in able],
                )

    def seed_of(self, contestant: Contestant, seed: int) -> int:
        """The paper's own seed for its own modes."""
        own = (contestant.head, contestant.mode) in self.protocol.modes
        return self.protocol.seed if own and self.protocol.seed is not None else seed


def compare(store: Store, *, options: CompareOptions | None = None, progress: Progress | None = None) -> Comparison:
    """Train and score heads and controls on the same folds of a store.

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
    options = options or CompareOptions()
    protocols = tuple(_protocol(name, options) for name in dict.fromkeys(options.protocols))
    lines = [contestants(options.heads, protocol) for protocol in protocols]
    sets = feature_sets(store, backbones=options.backbones, view_sets=options.view_sets, patches=options.patches)
    keys = tuple(dict.fromkeys(key for one in sets for key in one.keys))
    table, warnings = usable_table(store, keys, patches=options.patches)
    results = Results()
    plans = []
    for protocol, who in zip(protocols, lines, strict=True):
        with _protocol_may_fail(protocol, results, alone=len(protocols) == 1):
            plans.append(_Plan(protocol, outer_folds(protocol, table.slide_ids, table.patient_ids), who))
    _run(plans, table, sets, results, options=options, progress=progress)
    if not results.records and results.impossible:
        raise ProtocolError("; ".join(f"{name}: {reason}" for name, reason in results.impossible.items()))
    results.add_aggregates()
    ran = tuple(protocol for protocol in protocols if protocol.name not in results.impossible)
    maps = gene_maps(store, results.records, results.held_out, genes=options.genes, score=ran[0].score)
    missing = (*_missing_controls(results), *genes_without_map(options.genes, maps))
    return Comparison(
        protocols=ran,
        records=tuple(results.records),
        warnings=(*patient_warnings(table.patient_ids), *warnings, *missing),
        skipped=(
            *((f"every head ({name})", reason) for name, reason in results.impossible.items()),
            *((f"{line[-1]} ({line[0]})", reason) for line, reason in results.skipped.items()),
        ),
        maps=maps,
        provenance=provenance(store, table, sets, options=options),
        folds=results.folds,
        details=head_details(results.held_out),
        ceilings=protocol_ceilings(ran, SpotCounts.of(table), results.held_out, seed=options.seed),
    )


def _run(
    plans: Sequence[_Plan],
    table: Table,
    sets: Sequence[FeatureSet],
    results: Results,
    *,
    options: CompareOptions,
    progress: Progress | None,
) -> None:
    folder, done = CellFolder(options.cells), 0
    code = {} if options.cells is None else {"code": code_digest()}
    total = sum(len(cells) for plan in plans for _, _, cells in plan.cells(sets, options.seed))
    for plan in plans:
        with _protocol_may_fail(plan.protocol, results, alone=len(plans) == 1):
            cohort = prepare_cohort(table, plan.protocol)
            for one, fold, cells in plan.cells(sets, options.seed):
                prepared = prepare(replace(cohort, table=one.of(cohort.table)), fold, plan.protocol)
                results.add_fold(plan.protocol, fold, prepared)
                common = code and {
                    **code,
                    "numbers": prepared_digest(prepared.train, prepared.test, prepared.test_depth),
                }
                for cell in cells:
                    if progress is not None:
                        progress(f"{cell.protocol.name} / {fold.name} / {cell.contestant.label}", done, total)
                    done += 1
                    _run_one(cell, prepared, results, folder=folder, common=common)
    forget_design()
    if progress is not None:
        again = f" ({folder.taken} cells were trained before)" if folder.taken else ""
        progress(f"done{again}", total, total)


def _run_one(
    cell: CellPlan, prepared: Prepared, results: Results, *, folder: CellFolder, common: dict[str, str]
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


def _protocol(name: str, options: CompareOptions) -> Protocol:
    protocol = with_preprocessing(
        get_protocol(name),
        feature_standardisation=options.standardise,
        target_centring=options.centring,
        spot_weight=options.spot_weight,
    )
    return changes_told(with_panel(protocol, panel=options.panel, size=options.panel_size))
