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
from .feature_choice import feature_keys
from .gene_maps import gene_maps
from .preparation import prepare, prepare_cohort
from .protocols import FeatureStandardisation, Protocol, get_protocol, with_preprocessing
from .splits import outer_folds, patient_warnings
from .usable import usable_table

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
    standardise
        "slide" or "none" in place of what the protocols say of features; the records declare it.
    """

    heads: tuple[str, ...] = ("all",)
    protocols: tuple[str, ...] = ("strict",)
    backbone: str | None = None
    views: tuple[str, ...] = ()
    patches: str = SPOTS
    standardise: FeatureStandardisation | None = None
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
    protocols = tuple(_protocol(name, options) for name in dict.fromkeys(options.protocols))
    names = resolve_heads([*options.heads, *(name for name, entry in HEADS.items() if entry.control)])
    keys = feature_keys(store, backbone=options.backbone, views=options.views, patches=options.patches)
    table, warnings = usable_table(store, keys, patches=options.patches)
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
        warnings=(*patient_warnings(table.patient_ids), *warnings, *_missing_controls(results)),
        skipped=tuple((f"{name} ({protocol})", reason) for (protocol, name), reason in results.skipped.items()),
        maps=gene_maps(store, results.records, results.held_out),
        provenance=_provenance(store, keys, table, options=options),
    )


def _missing_controls(results: Results) -> tuple[str, ...]:
    """A sentence for each control that did not run: without it the floor may lie lower than it should."""
    return tuple(
        f"control {name} was not run under {protocol}, so the floor shown may be too low"
        for protocol, name in results.skipped
        if HEADS[name].control
    )


def _protocol(name: str, options: CompareOptions) -> Protocol:
    protocol = get_protocol(name)
    if options.standardise is None:
        return protocol
    return with_preprocessing(protocol, feature_standardisation=options.standardise)


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
    if options.standardise:
        words += ["--standardise", options.standardise]
    return " ".join([*words, "--seed", str(options.seed)])
