"""Every head in every mode under every protocol: which run, which refuse and why, which fail.

    python -m tissuary.benchmarks.sweep [--stores full views native] [--protocols strict ...] [--heads mmap:paper ...]

Tiny made-up stores, one epoch and one fold of each protocol, so that all of it takes minutes on two cores. A head that
says in a sentence what it lacks has refused; one that raises anything else, or predicts what is not finite, has failed.
The store `full` has three views, and token grids and sub-tiles of them; `views` has two views alone; `native` has one
view, whose field differs by slide, and its token grid. Ratio: heads that neither fail nor, on `full`, refuse, over all.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from ..heads.comparison.plan import CompareOptions, make_plan
from ..heads.comparison.preparation import Prepared, prepare_cohort
from ..heads.comparison.trials import TrialCache, TrialPlan, run_cell, scored
from ..heads.protocols.named import PROTOCOLS
from ..heads.registry import HEADS
from ..store.errors import HeadError
from ..store.files.expression import Expression, write_expression
from ..store.files.features import FeatureHeader, write_features
from ..store.files.patches import Patches, write_patches
from ..store.files.schema import expression_path, features_path, patches_path, slide_path
from ..store.files.slide import SlideRecord, write_slide
from ..store.store import Store

DIM, GENES, PANEL, SIDE = 6, 40, 6, 5
Shapes = dict[str, tuple[int, ...]]
"""Shape of a row of each feature key."""

DENSITY: Shapes = {"haematoxylin@20x": (1,)}
VIEWS: Shapes = {"toy@20x": (DIM,), "toy@10x": (DIM,), "toy@5x": (DIM,)}
GRIDS: Shapes = {f"{key}.grid3x3": (9, DIM) for key in VIEWS}
TILES: Shapes = {"toy@20x.tiles4x4": (16, DIM), "toy@10x.tiles2x2": (4, DIM)}
STORES: dict[str, Shapes] = {
    "full": VIEWS | GRIDS | TILES | DENSITY,
    "views": {"toy@20x": (DIM,), "toy@10x": (DIM,), **DENSITY},
    "native": {"toy@native": (DIM,), "toy@native.grid3x3": (9, DIM), **DENSITY},
}
"""By name of a store."""

SLIDES = {f"{patient}{number}": patient for patient in "ABC" for number in range(2)}
BRIEF = {"epochs": "1", "members": "1", "trees": "3", "rounds": "2"}
"""Options that make a head cheap, given to those that have them."""

ENSEMBLE = "members=ridge+mlp:epochs=1;members=1"


@dataclass(frozen=True)
class Outcome:
    """What became of a head under a protocol.

    Attributes
    ----------
    state
        "ran", "refused" or "failed".
    reason
        In the head's own words; empty where it ran.
    """

    protocol: str
    head: str
    state: str
    reason: str = ""


def main() -> None:
    """Sweep, print a line per head and protocol that did not run, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--heads", nargs="+", default=list(every_mode()))
    options = parser.parse_args()
    logging.getLogger("tissuary").setLevel(logging.ERROR)
    right = total = 0
    for name in options.stores:
        with tempfile.TemporaryDirectory() as folder:
            store = write_store(Path(folder) / "store", STORES[name])
            for protocol in options.protocols:
                found = list(sweep(store, protocol, heads=options.heads))
                counts = {state: sum(one.state == state for one in found) for state in ("ran", "refused", "failed")}
                print(f"{name:8}{protocol:16}" + "  ".join(f"{n} {state}" for state, n in counts.items()), flush=True)
                for one in found:
                    if one.state != "ran":
                        print(f"    {one.state} {one.head}: {one.reason}")
                right += counts["ran"] + (counts["refused"] if name != "full" else 0)
                total += len(found)
    print(f"sweep_heads ratio={right / total:.3f} goal=1.0")


def every_mode() -> Iterator[str]:
    """Every head in every mode, as `compare` takes them, with the options that make them cheap."""
    for name, entry in HEADS.items():
        module, cls = entry.location.split(":")
        head = getattr(importlib.import_module(f"..heads.{module}", __package__), cls)
        known = inspect.signature(head.__init__).parameters
        brief = [f"{option}={value}" for option, value in BRIEF.items() if option in known]
        if name == "ensemble":
            brief = [ENSEMBLE]
        for mode in ((), *((mode,) for mode in entry.modes)):
            parts = ",".join([*mode, *brief])
            yield f"{name}:{parts}" if parts else name


def sweep(store: Store, protocol: str, *, heads: Sequence[str]) -> Iterator[Outcome]:
    """What becomes of heads on the first fold of a protocol.

    Raises
    ------
    TissuaryError
        If the store does not allow the protocol at all.
    """
    plan = make_plan(store, CompareOptions(heads=tuple(heads), protocols=(protocol,), panel_size=PANEL))
    (one,) = plan.plans
    group = next(iter(one.groups(plan.sets, plan.seed)))
    prepared = group.prepare(prepare_cohort(plan.table, one.protocol))
    for cell in group.cells:
        yield _outcome(cell, prepared)


def _outcome(cell: TrialPlan, prepared: Prepared) -> Outcome:
    who = cell.protocol.name, cell.contestant.label
    try:
        trained = run_cell(cell, prepared, cells=TrialCache(None), common={})
    except HeadError as error:  # with a cause where the head raised something else
        return Outcome(*who, "refused" if error.__cause__ is None else "failed", str(error))
    try:
        scored(cell, prepared, trained)
    except HeadError as error:
        return Outcome(*who, "failed", str(error))
    return Outcome(*who, "ran")


def write_store(root: Path, shapes: Shapes) -> Store:
    """Six slides of three patients, whose counts follow the first two numbers of every feature.

    Parameters
    ----------
    shapes
        Shape of a row of each feature key.
    """
    rng = np.random.default_rng(0)
    loading, level = rng.normal(size=(2, GENES)), rng.normal(size=GENES)
    genes = np.array([f"gene{one}" for one in range(GENES)], dtype=np.str_)
    for slide_id, patient_id in SLIDES.items():
        cells = np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), axis=1).astype(np.int32)
        barcode = np.array([f"{column}x{row}" for row, column in cells], dtype=np.str_)
        place = Patches(center_px=(cells[:, ::-1] + 1.0) * 400.0, barcode=barcode, array=cells)
        record = SlideRecord(
            slide_id, patient_id, 4000, 4000, 0.5, "manifest", {"manifest": 0.5}, "made up", "none", "benchmark"
        )
        write_slide(slide_path(root, slide_id), record, thumbnail=np.full((20, 20, 3), 200, np.uint8))
        write_patches(patches_path(root, slide_id), place, slide_id=slide_id)
        signal = rng.normal(size=(len(place), 2))
        for key, shape in shapes.items():
            values = rng.normal(size=(len(place), *shape))
            if shape[-1] > 1:
                values[..., :2] += signal if len(shape) == 1 else signal[:, None]
            header = FeatureHeader(
                slide_id, f"print of {key}", {"licence": "none"}, 0.5, 112.0, 1.0, "fp32", place.digest, 0.5, "none"
            )
            with write_features(features_path(root, slide_id, key=key), header, shape=values.shape) as writer:
                writer.append(values.astype(np.float32))
        share = np.exp(0.5 * signal @ loading + level)
        depth = rng.lognormal(7.0, 0.6, size=(len(place), 1))
        counts = rng.poisson(depth * share / share.sum(axis=1, keepdims=True)).astype(np.float32)
        expression = Expression(csr_matrix(counts), genes, barcode)
        write_expression(expression_path(root, slide_id), expression, place, slide_id=slide_id)
    return Store(root)


if __name__ == "__main__":
    main()
