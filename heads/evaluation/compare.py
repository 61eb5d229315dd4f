"""Every head and every control on the same folds."""

from __future__ import annotations

import datetime
import inspect
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError
from ...store.naming import SPOTS, FeatureKey
from ...store.store import Store
from ..contract import options_of
from ..registry import HEADS, make_head, resolve_heads
from .aggregate import ScoredFold, aggregate
from .comparison import Comparison
from .feature_choice import DENSITY, feature_keys
from .gene_maps import HeldOut, gene_maps
from .metrics import score_fold
from .preparation import Prepared, prepare, prepare_cohort
from .protocols import Protocol, get_protocol
from .splits import Fold, outer_folds, patient_warnings

log = logging.getLogger(__name__)

VERSIONS = ("tissuary", "torch", "numpy", "scipy", "scikit-learn", "scanpy")
SCORES = ("pcc_slide_mean", "pcc_slide_median", "pcc_pooled", "pcc_heg50", "pcc_hvg50", "mse", "mae")

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


@dataclass
class _Results:
    """What the cells of a comparison add up to."""

    records: list[dict[str, object]] = field(default_factory=list)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    held_out: dict[tuple[str, str], list[HeldOut]] = field(default_factory=dict)

    def skip(self, at: tuple[str, str], reason: str) -> None:
        """Leave a head out of a protocol altogether: an average over some of the folds is no score."""
        self.skipped[at] = reason
        self.held_out.pop(at, None)
        self.records = [r for r in self.records if (r["protocol"], r["head"]) != at]


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
    density = [key for key in store.keys(options.patches) if FeatureKey.parse(key).backbone == DENSITY]
    table = store.table(keys, patches=options.patches, control_keys=density)
    results = _Results()
    plans = [(protocol, outer_folds(protocol, table.slide_ids, table.patient_ids)) for protocol in protocols]
    total = sum(len(folds) for _, folds in plans) * len(names)
    done = 0
    for protocol, folds in plans:
        cohort = prepare_cohort(table, protocol)
        for fold in folds:
            prepared = prepare(cohort, fold, protocol)
            for name in names:
                if progress is not None:
                    progress(f"{protocol.name} / {fold.name} / {name}", done, total)
                _run_cell(name, prepared, fold, protocol, options=options, keys=keys, results=results)
                done += 1
    if progress is not None:
        progress("done", total, total)
    _add_aggregates(
        results, protocols, names, patients=dict(zip(table.slide_ids, table.patient_ids, strict=True))
    )
    return Comparison(
        protocols=protocols,
        records=tuple(results.records),
        warnings=patient_warnings(table.patient_ids),
        skipped=tuple((f"{name} ({protocol})", reason) for (protocol, name), reason in results.skipped.items()),
        maps=gene_maps(store, results.records, results.held_out),
        provenance=_provenance(store, keys, options, table_size=(len(table), len(table.slide_ids))),
    )


def _run_cell(
    name: str,
    prepared: Prepared,
    fold: Fold,
    protocol: Protocol,
    *,
    options: CompareOptions,
    keys: tuple[str, ...],
    results: _Results,
) -> None:
    """Fit, predict and score one head on one fold."""
    at = (protocol.name, name)
    if at in results.skipped:
        return
    try:
        head = make_head(name, **({"seed": options.seed} if _takes_seed(name) else {}))
        started = time.perf_counter()
        head.fit(prepared.train)
        fitted = time.perf_counter()
        prediction = _predict(head, prepared)
        finished = time.perf_counter()
        score = score_fold(
            prediction, prepared.truth, slide=prepared.test.slide, heg50=prepared.panel.heg50, hvg50=prepared.hvg50
        )
    except HeadError as error:
        log.warning("head %s skipped under %s: %s", name, protocol.name, error)
        results.skip(at, str(error))
        return
    record: dict[str, object] = {
        "head": name,
        "mode": "default",
        "protocol": protocol.name,
        "fold": fold.name,
        "backbone": FeatureKey.parse(keys[0]).encoder,
        "views": "+".join(FeatureKey.parse(key).view for key in keys),
        "panel_size": len(prepared.panel.genes),
        "n_train": len(prepared.train),
        "n_test": len(prepared.test),
        **{field: getattr(score, field) for field in SCORES},
        "nan_genes": score.nan_genes,
        "nan_slides": score.nan_slides,
        "constant": score.constant,
        "panel": protocol.panel,
        "preprocessing": prepared.preprocessing,
        "options": options_of(head),
        "fit_seconds": fitted - started,
        "predict_seconds": finished - fitted,
        "parameters": int(getattr(head, "n_parameters_", 0)),
        "seed": options.seed,
        "control": HEADS[name].control,
        "diagnostic": False,
    }
    results.records.append(record)
    held = HeldOut(prepared.test, prepared.truth, prediction, score, fold.name)
    results.held_out.setdefault(at, []).append(held)


def _predict(head: Any, prepared: Prepared) -> NDArray[np.float32]:
    """Predictions in target units, the slide's offset put back."""
    assert prepared.test.target_offset is not None
    deviation = np.asarray(head.predict(prepared.test), dtype=np.float32)
    if deviation.shape != prepared.truth.shape:
        msg = f"{type(head).__name__} predicted shape {deviation.shape}, wanted {prepared.truth.shape}"
        raise HeadError(msg)
    whole: NDArray[np.float32] = deviation + prepared.test.target_offset[prepared.test.slide]
    return whole


def _takes_seed(name: str) -> bool:
    """Whether a head's constructor has the option `seed`."""
    return "seed" in inspect.signature(type(make_head(name)).__init__).parameters


def _add_aggregates(
    results: _Results, protocols: Sequence[Protocol], names: Sequence[str], *, patients: dict[str, str]
) -> None:
    """One record of fold "all" for each head under each protocol."""
    for protocol in protocols:
        for name in names:
            own = [r for r in results.records if (r["protocol"], r["head"]) == (protocol.name, name)]
            held = results.held_out.get((protocol.name, name), [])
            if not held:
                continue
            folds = [ScoredFold(one.fold, _patients(one, patients), one.score) for one in held]
            summary = aggregate(folds)
            first = own[0]
            results.records.append(
                {
                    **first,
                    "fold": "all",
                    "n_train": int(np.mean([int(str(r["n_train"])) for r in own])),
                    "n_test": sum(int(str(r["n_test"])) for r in own),
                    **{field: getattr(summary, field) for field in SCORES},
                    "nan_genes": summary.nan_genes,
                    "nan_slides": summary.nan_slides,
                    "constant": summary.constant,
                    "options": {},
                    "preprocessing": first["preprocessing"],
                    "fit_seconds": sum(float(str(r["fit_seconds"])) for r in own),
                    "predict_seconds": sum(float(str(r["predict_seconds"])) for r in own),
                    "per_patient": summary.per_patient,
                    "pcc_slide_mean_low": summary.pcc_slide_mean_low,
                    "pcc_slide_mean_high": summary.pcc_slide_mean_high,
                }
            )


def _patients(held: HeldOut, patients: dict[str, str]) -> tuple[str, ...]:
    """Patient of each test slide of a fold, in the order of its scores."""
    return tuple(patients[held.test.slide_ids[slide]] for slide in held.score.slides)


def _provenance(
    store: Store, keys: tuple[str, ...], options: CompareOptions, *, table_size: tuple[int, int]
) -> dict[str, object]:
    """What a reader needs to run the same again."""
    first = store.slides_with(keys, patches=options.patches)[0]
    headers = {key: store.header(key, first, patches=options.patches) for key in keys}
    return {
        "store": store.path.name,
        "spots": table_size[0],
        "slides": table_size[1],
        "patches": options.patches,
        "fingerprints": {key: header.fingerprint for key, header in headers.items()},
        "licences": {
            FeatureKey.parse(key).encoder: str(header.record.get("licence")) for key, header in headers.items()
        },
        "seed": options.seed,
        "versions": {name: version(name) for name in VERSIONS},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
