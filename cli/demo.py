"""`tissuary demo`: slides to features to neighbours to a report, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .compare import run as run_compare
from .compare import show
from .featurize import run as run_featurize
from .featurize_options import Format, Json, takes_featurize_options
from .output import OK, SOME_FAILED, print_json, progress_bar, result, say

if TYPE_CHECKING:
    from ..store import Store

FEW_PATIENTS = 3

DEMO_HEADS = ("ridge", "knn", "nh2st")
"""Heads of the demo, which is to end within minutes; `tissuary compare` runs the others on its store."""


@takes_featurize_options
def demo(
    data: Annotated[Path | None, typer.Option("--data", help="A cohort; a synthetic one where not given.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the store and the report.")] = Path("demo"),
    options: Any = None,
    format: Format = "auto",
    json: Json = False,
) -> None:
    """Run the main job end to end: featurize, index, search, compare heads, write the report."""
    from ..featurize.setup import stored_names
    from ..heads.comparison.plan import CompareOptions
    from ..store import Store

    source = data if data is not None else _synthetic(out / "cohort")
    _refuse_strangers(source, out, format=format)
    report = run_featurize(source, out / "store", options, format=format)
    store = Store(out / "store")
    first = stored_names(options)[0]
    _look_up(store, first, options.view_names[0])
    if not any(entry.kind == "expression" for entry in store.entries):
        say(f"no slide of {source} has counts, so there are no heads to compare; the features are in {store.path}")
        raise typer.Exit(SOME_FAILED if report.failed else OK)
    compared = CompareOptions(
        heads=DEMO_HEADS, protocols=_protocols(store), backbones=(first,), view_sets=(options.view_names,)
    )
    with progress_bar("compare") as progress:
        comparison = run_compare(out / "store", compared, out=out, progress=progress)
    if json:
        print_json(list(comparison.records))
    else:
        show(comparison)
        result(str(out / "report.html"))
    raise typer.Exit(SOME_FAILED if report.failed or comparison.skipped else OK)


def _refuse_strangers(source: Path, out: Path, *, format: str) -> None:
    """Two cohorts in one folder would be compared as one."""
    from ..featurize.sources.load import load_cohort
    from ..store import Store
    from ..store.errors import CohortError
    from ..store.store_folder import is_store

    if not is_store(out / "store"):
        return
    cohort = load_cohort(source, format=format)
    own = {sample.slide_id for sample in cohort.samples} | {slide_id for slide_id, _ in cohort.refused}
    strangers = sorted(set(Store(out / "store").slide_ids) - own)
    if strangers:
        msg = f"{out} holds another cohort ({', '.join(strangers[:3])}, ...): choose another folder with `--out`"
        raise CohortError(msg)


def _synthetic(folder: Path) -> Path:
    """The synthetic cohort, made once."""
    from ..synthetic.cohort import write_cohort

    manifest = folder / "manifest.csv"
    if not manifest.exists():
        say(f"making a synthetic cohort in {folder}")
        manifest = write_cohort(folder)
    return manifest


def _look_up(store: Store, backbone: str, view: str) -> None:
    """Index the first view and show the look-alikes of one patch in another patient."""
    from ..store.naming import feature_key

    key, patches = feature_key(backbone, view), store.default_patches
    index = store.build_index(key, patches=patches)
    slide = index.record.slide_ids[0]
    several = len(set(index.record.patient_ids)) > 1
    hits = store.search(slide, 0, k=3, key=key, patches=patches, exclude="patient" if several else None)
    found = ", ".join(f"{hit.slide_id}:{hit.patch} ({hit.distance:.3f})" for hit in hits)
    where = "other patients" if several else "the cohort"
    say(f"indexed {index.flat.ntotal} patches; {slide}:0 looks most like {found} in {where}")


def _protocols(store: Store) -> tuple[str, ...]:
    """`strict`, and `strict-slide` beside it where patients are fewer than three."""
    patients = {store.slide(slide).patient_id for slide in store.slide_ids}
    if len(patients) < 2:
        return ("strict-slide",)
    return ("strict", "strict-slide") if len(patients) < FEW_PATIENTS else ("strict",)
