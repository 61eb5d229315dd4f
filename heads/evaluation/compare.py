"""Every head and every control on the same folds."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from ...store.naming import SPOTS, FeatureKey
from ...store.store import Store
from ...store.table import Table
from ..registry import HEADS, resolve_heads
from .cells import Results, add_aggregates, run_cell
from .comparison import Comparison
from .feature_choice import DENSITY, feature_keys
from .gene_maps import gene_maps
from .preparation import prepare, prepare_cohort
from .protocols import get_protocol
from .splits import outer_folds, patient_warnings

VERSIONS = ("tissuary", "torch", "numpy", "scipy", "scikit-learn", "scanpy")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, cells done, and cells in all."""


@dataclass(frozen=True)
class CompareOptions:
    """What is compared.

    Attributes
    ----------
    heads
        Names, or "all". Controls are always in the table.
    protocols
        Names of protocols, each on its own folds.
    backbone
        Part of the feature keys before the `@`; the store's only one where not given.
    views
        Views side by side; all that the backbone has where empty.
    """

    heads: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ("strict",)
    backbone: str | None = None
    views: tuple[str, ...] = ()
    patches: str = SPOTS
    seed: int = 0


def compare(store: Store, *, options: CompareOptions | None = None, progress: Progress | None = None) -> Comparison:
    """Train and score heads and controls on the same folds of a store.

    Returns
    -------
    Comparison
        One record per head, protocol and fold, and one of fold "all"; maps of a best and a median gene; warnings.

    Raises
    ------
    TissuaryError
        If a head, protocol or feature key does not exist, or the cohort is too small for the protocol.
    """
    options = options or CompareOptions()
    protocols = tuple(get_protocol(name) for name in options.protocols)
    names = resolve_heads([*options.heads, *(name for name, entry in HEADS.items() if entry.control)])
    keys = feature_keys(store, backbone=options.backbone, views=options.views, patches=options.patches)
    table = _table(store, keys, patches=options.patches)
    plans = [(protocol, outer_folds(protocol, table.slide_ids, table.patient_ids)) for protocol in protocols]
    total = sum(len(folds) for _, folds in plans) * len(names)
    results, done = Results(), 0
    for protocol, folds in plans:
        cohort = prepare_cohort(table, protocol)
        for fold in folds:
            prepared = prepare(cohort, fold, protocol)
            for name in names:
                if progress is not None:
                    progress(f"{protocol.name} / {fold.name} / {name}", done, total)
                run_cell(name, prepared, fold, protocol=protocol, keys=keys, seed=options.seed, results=results)
                done += 1
    if progress is not None:
        progress("done", total, total)
    add_aggregates(results)
    return Comparison(
        protocols=protocols,
        records=tuple(results.records),
        warnings=(*patient_warnings(table.patient_ids), *_left_out(store, table)),
        skipped=tuple((f"{name} ({protocol})", reason) for (protocol, name), reason in results.skipped.items()),
        maps=gene_maps(store, results.records, results.held_out),
        provenance=_provenance(store, keys, table, options=options),
    )


def _table(store: Store, keys: tuple[str, ...], *, patches: str) -> Table:
    """All slides that have features and counts, with the density control where each of them has it."""
    slides = store.slides_with(keys, patches=patches, expression=True)
    density = [
        key
        for key in store.keys(patches)
        if FeatureKey.parse(key).backbone == DENSITY and set(slides) <= set(store.slides_with([key], patches=patches))
    ]
    return store.table(keys, patches=patches, control_keys=density[:1])


def _left_out(store: Store, table: Table) -> tuple[str, ...]:
    """A sentence on slides of the store that cannot take part."""
    missing = sorted(set(store.slide_ids) - set(table.slide_ids))
    return (f"{len(missing)} slides lack counts or features and are left out: {', '.join(missing)}",) if missing else ()


def _provenance(store: Store, keys: tuple[str, ...], table: Table, *, options: CompareOptions) -> dict[str, object]:
    """What a reader needs to run the same again."""
    headers = {key: store.header(key, table.slide_ids[0], patches=options.patches) for key in keys}
    return {
        "store": store.path.name,
        "command": _command(store, options),
        "spots": len(table),
        "slides": len(table.slide_ids),
        "patches": options.patches,
        "fingerprints": {key: header.fingerprint for key, header in headers.items()},
        "licences": {FeatureKey.parse(key).encoder: header.record.get("licence") for key, header in headers.items()},
        "upsampling": {key: round(header.upsampling, 3) for key, header in headers.items()},
        "seed": options.seed,
        "versions": {name: version(name) for name in VERSIONS},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _command(store: Store, options: CompareOptions) -> str:
    """The command line that makes the same comparison."""
    words = ["tissuary compare", store.path.name, "--heads", *options.heads, "--protocol", *options.protocols]
    if options.backbone:
        words += ["--backbone", options.backbone]
    if options.views:
        words += ["--views", *options.views]
    return " ".join([*words, "--seed", str(options.seed)])
