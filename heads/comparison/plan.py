"""What a comparison will train: protocols, folds, feature sets and contestants, in groups that share a preparation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...store.choices import as_names
from ...store.errors import ProtocolError, TissuaryError
from ...store.store import Store
from ...store.table import Table
from ..protocols.changes import ProtocolChanges, changed_protocol
from ..protocols.protocol import Protocol
from ..protocols.splits import Fold, outer_folds
from .head_spec import HeadSpec, contestants
from .inputs import FeatureSet, feature_sets, usable_table
from .preparation import Prepared, ProtocolCohort, prepare
from .trials import TrialCache, TrialPlan, code_digest, prepared_digest, tokens_digest


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ProtocolChanges):
    """What is compared, and what of the protocols is changed.

    Attributes
    ----------
    heads
        Names, `head:mode`, or "all". Controls are always in the table.
    protocols
        Names of protocols, each on its own folds.
    backbones
        Parts of the feature keys before the `@`; the store's only one where empty.
    view_sets
        Sets of views side by side, each as `("20x", "10x")` or `"20x+10x"`; all that a backbone has where empty.
    patches
        Patch set; the only one, or spots, where None.
    genes
        Genes whose maps are drawn beside those of the best and a median one.
    cells
        Folder of trained cells: those of an earlier, perhaps unfinished comparison are taken, and new ones kept.
    jobs
        Folds that are trained at the same time, each in a process of its own.
    engine, address
        "local", or "ray": folds as tasks of the Ray cluster at `address`, which must see the store and `cells`.
    """

    heads: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ("strict",)
    backbones: tuple[str, ...] = ()
    view_sets: tuple[tuple[str, ...], ...] = ()
    patches: str | None = None
    seed: int = 0
    genes: tuple[str, ...] = ()
    cells: Path | None = None
    jobs: int = 1
    engine: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "protocols", "backbones", "genes"):
            object.__setattr__(self, name, as_names(getattr(self, name), name))
        object.__setattr__(self, "view_sets", _as_sets(self.view_sets))
        if self.jobs < 1:
            msg = f"jobs {self.jobs}: wanted 1 or more folds at the same time"
            raise ProtocolError(msg)


def _as_sets(value: str | Iterable[str | Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Sets of views; a string is one set, as the command line writes it."""
    sets = [value] if isinstance(value, str) else value
    return tuple(tuple(one.split("+")) if isinstance(one, str) else as_names(one, "view_sets") for one in sets)


@dataclass(frozen=True)
class Group:
    """Cells that share a preparation."""

    protocol: Protocol
    features: FeatureSet
    fold: Fold
    cells: tuple[TrialPlan, ...]

    def prepare(self, cohort: ProtocolCohort) -> Prepared:
        """The fold with these features, of the protocol's cohort."""
        return prepare(replace(cohort, table=self.features.of(cohort.table)), self.fold, self.protocol)


@dataclass(frozen=True)
class ProtocolPlan:
    """One protocol of a comparison."""

    protocol: Protocol
    folds: tuple[Fold, ...]
    contestants: tuple[HeadSpec, ...]

    def groups(self, sets: Sequence[FeatureSet], seed: int) -> Iterator[Group]:
        """Cells that share a preparation; heads that read no features run with the first set alone."""
        for fold in self.folds:
            for one in sets:
                able = [who for who in self.contestants if who.entry.features or one == sets[0]]
                cells = tuple(
                    TrialPlan(who, self.protocol, fold, one, who.seed_under(self.protocol, seed)) for who in able
                )
                yield Group(self.protocol, one, fold, cells)


@dataclass(frozen=True)
class ComparisonPlan:
    """All of a comparison, before anything is trained.

    Attributes
    ----------
    table
        All slides and all features.
    plans
        Protocols that these slides allow.
    impossible
        Name of a protocol that they do not allow, and why.
    """

    table: Table
    sets: tuple[FeatureSet, ...]
    plans: tuple[ProtocolPlan, ...]
    seed: int
    warnings: tuple[str, ...]
    impossible: dict[str, str]

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every group of cells, in the order in which they are trained."""
        return tuple(group for plan in self.plans for group in plan.groups(self.sets, self.seed))


def make_plan(store: Store, options: CompareOptions) -> ComparisonPlan:
    """Resolve names, open features and counts, and cut folds.

    Raises
    ------
    TissuaryError
        If a head, protocol or feature key does not exist, or the cohort is too small for the only protocol.
    """
    protocols = tuple(changed_protocol(name, options) for name in dict.fromkeys(options.protocols))
    lines = [contestants(options.heads, protocol) for protocol in protocols]
    patches = store.patch_set(options.patches)
    sets = feature_sets(store, backbones=options.backbones, view_sets=options.view_sets, patches=patches)
    keys = tuple(dict.fromkeys(key for one in sets for key in one.keys))
    tokens = any(who.reads_tokens for line in lines for who in line)
    table, warnings = usable_table(store, keys, patches=patches, tokens=tokens)
    plans, impossible = [], {}
    for protocol, who in zip(protocols, lines, strict=True):
        try:
            plans.append(ProtocolPlan(protocol, outer_folds(protocol, table.slide_ids, table.patient_ids), who))
        except TissuaryError as error:
            if len(protocols) == 1:
                raise
            impossible[protocol.name] = str(error)
    return ComparisonPlan(table, sets, tuple(plans), options.seed, warnings, impossible)


def common_identity(folder: TrialCache, prepared: Prepared, cells: Sequence[TrialPlan]) -> dict[str, str]:
    """What cells on the same numbers share, tokens among it if one of them reads tokens; nothing where none is kept."""
    if not folder.keeps:
        return {}
    numbers = prepared_digest(prepared.train, prepared.test, prepared.test_depth)
    shared = {"code": code_digest(), "numbers": numbers}
    if any(cell.contestant.reads_tokens for cell in cells):
        shared["tokens"] = tokens_digest(prepared.train, prepared.test)
    return shared
