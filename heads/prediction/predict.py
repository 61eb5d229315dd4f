"""Apply a run to the slides of a store: expression maps as AnnData, pictures and GeoJSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...store.choices import as_names, instead, no_slide
from ...store.errors import HeadError, StoreError, TissuaryError
from ...store.files.atomic import check_writable, sweep_partials
from ...store.files.lock import slide_lock
from ...store.option_types import check_types
from ...store.store import Store
from .blocks import BLOCK_ROWS
from .maps import check_scale, map_mark, write_familiarity_map, write_gene_map
from .qupath import qupath_frame, qupath_mark, write_qupath
from .run import TrainedRun, load_run
from .slide import plan_slide, predict_slide
from .slide_map import SlideMap, read_mark, read_measured, read_slide_map
from .training_overlap import TrainingOverlap

log = logging.getLogger(__name__)

SHOWN_GENES = 6
"""Genes that are drawn where none are named."""

Progress = Callable[[str, int, int], None]
"""Called with the slide, its rows that are done, and its rows in all."""


@dataclass(frozen=True)
class PredictOptions:
    """What is predicted.

    Attributes
    ----------
    patches
        Patch set; the only one, or spots, where None.
    slides
        All that have the features where empty.
    genes
        That are drawn, and measured in QuPath; those that differ most between training spots where empty. The
        AnnData has all genes of the run.
    block_rows
        Rows predicted together.
    device
        "cpu", "cuda" or "auto": of the head and of the search; the head's own, and the CPU, where None.
    pictures, geojson
        Whether these are written beside the AnnData.
    scale
        Of maps of slides with counts: "shared", one colour bar for measured and predicted values, or "own".
    """

    patches: str | None = None
    slides: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()
    block_rows: int = BLOCK_ROWS
    device: str | None = None
    pictures: bool = True
    geojson: bool = True
    scale: str = "shared"

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("slides", "genes"):
            object.__setattr__(self, name, as_names(getattr(self, name), name))


@dataclass(frozen=True)
class SlideReport:
    """One slide that was predicted.

    Attributes
    ----------
    rows
        Spots or tiles.
    training_overlap
        Whether this slide, its image or its patient trained the run: `flagged` and `median_unfamiliar` are then no
        sign that the map can be trusted.
    flagged
        Share of rows that lie farther from the training rows than 99 in 100 of these from other patients.
    median_unfamiliar
        Median share of training rows that lie nearer.
    kept
        Whether the AnnData was there already.
    files
        That were written.
    coordinates
        In which frame the GeoJSON's coordinates are.
    notes
        What differs from training, a sentence each.
    """

    slide_id: str
    rows: int
    training_overlap: TrainingOverlap
    flagged: float
    median_unfamiliar: float
    kept: bool
    files: tuple[str, ...]
    coordinates: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PredictReport:
    """What was predicted; `failed` names each slide that was not, and why."""

    out: str
    run: str
    patches: str
    genes: tuple[str, ...]
    done: tuple[SlideReport, ...]
    failed: tuple[tuple[str, str], ...]


def predict(
    run: TrainedRun | Path | str,
    store: Store | Path | str,
    out: Path | str,
    *,
    options: PredictOptions | None = None,
    progress: Progress | None = None,
) -> PredictReport:
    """Predict slides, with or without counts, one after the other; what is done is kept, what was begun goes on.

    Parameters
    ----------
    run
        Folder of `train`, or a loaded run.
    out
        Folder for `<slide>.h5ad`, `<slide>.<gene>.png`, `<slide>.familiarity.png` and `<slide>.geojson`.

    Raises
    ------
    TissuaryError
        If the run cannot be loaded, a gene is not predicted, or no slide has the features. What is wrong with one slide
        is in the report.
    """
    options, out = options or PredictOptions(), Path(out)
    check_scale(options.scale)
    opened = store if isinstance(store, Store) else Store(store)
    loaded = run if isinstance(run, TrainedRun) else load_run(Path(run), device=options.device)
    genes = _genes(loaded, options.genes)
    patches = opened.patch_set(options.patches)
    check_writable(out)
    sweep_partials(out, pattern=".*")  # of this folder alone: what lies below is not ours
    done, failed = [], []
    for slide_id in _slides(loaded, opened, options.slides, patches=patches):
        try:
            with slide_lock(out, slide_id):
                done.append(_one(loaded, opened, slide_id, out, patches=patches, genes=genes, how=(options, progress)))
        except TissuaryError as error:
            log.info("%s", slide_id, exc_info=True)
            failed.append((slide_id, str(error)))
    return PredictReport(str(out), loaded.id, patches, genes, tuple(done), tuple(failed))


def _genes(run: TrainedRun, wanted: tuple[str, ...]) -> tuple[str, ...]:
    missing = [gene for gene in wanted if gene not in run.saved.panel]
    if missing:
        have = instead(missing[0], run.saved.panel)
        msg = f"{', '.join(missing)}: not among the {len(run.saved.panel)} genes that this run predicts: {have}"
        raise HeadError(msg)
    return tuple(dict.fromkeys(wanted)) or run.shown_genes(SHOWN_GENES)


def _slides(run: TrainedRun, store: Store, wanted: tuple[str, ...], *, patches: str) -> tuple[str, ...]:
    keys = (*run.familiarity.keys, *run.saved.keys("token"), *run.saved.keys("control"))
    able = store.slides_with(keys, patches=patches)
    found = tuple(dict.fromkeys(wanted)) or able
    missing = [slide for slide in found if slide not in able]
    unknown = [slide for slide in missing if slide not in store.slide_ids]
    if unknown:
        raise no_slide(store, unknown[0])
    if missing or not found:
        what = f"slides {', '.join(missing)} of {store.path} lack" if missing else f"no slide of {store.path} has"
        have = "; ".join(f"{name}: {', '.join(store.keys(name))}" for name in store.patch_sets) or "nothing"
        msg = (
            f"{what} the features of this run, {', '.join(dict.fromkeys(keys))}, on {patches!r} (it has {have}): "
            "featurize them with the backbone and views of training, or choose others with `patches=NAME`"
        )
        raise StoreError(msg)
    return found


def _one(
    run: TrainedRun,
    store: Store,
    slide_id: str,
    out: Path,
    *,
    patches: str,
    genes: tuple[str, ...],
    how: tuple[PredictOptions, Progress | None],
) -> SlideReport:
    options, progress = how
    plan, path = plan_slide(run, store, slide_id, patches=patches), out / f"{slide_id}.h5ad"
    made = predict_slide(
        run,
        plan,
        path,
        block_rows=options.block_rows,
        device=options.device or "cpu",
        progress=None if progress is None else lambda done, total: progress(slide_id, done, total),
    )
    slide = read_slide_map(path, genes, facts=plan.facts, identity=plan.identity)
    files = [path] if made else []
    drawn, notes = _drawn(slide, out, store, options=options, anew=made or bool(options.genes))
    if slide.overlap_kept != plan.facts.overlap.words:
        words = plan.facts.overlap.words
        notes.append(f"{path.name}, which is kept, does not say that {words}: delete it to have it written again")
    return SlideReport(
        slide_id=slide_id,
        rows=len(slide.distance),
        training_overlap=plan.facts.overlap,
        flagged=float(slide.flagged.mean()) if len(slide.flagged) else float("nan"),
        median_unfamiliar=float(np.median(slide.unfamiliar)) if len(slide.flagged) else float("nan"),
        kept=not made,
        files=tuple(map(str, files + drawn)),
        coordinates=qupath_frame(plan.facts)[1],
        notes=(*plan.notes, *notes),
    )


def _drawn(
    slide: SlideMap, out: Path, store: Store, *, options: PredictOptions, anew: bool
) -> tuple[list[Path], list[str]]:
    """Write pictures and GeoJSON that are not there, show something else, or are to be written anew; and notes."""
    if not len(slide.distance):
        return [], []
    slide_id, files, notes = slide.facts.slide.slide_id, list[Path](), list[str]()
    mark = map_mark(slide, scale=options.scale)
    pictures = {out / f"{slide_id}.{_file_word(gene)}.png": gene for gene in slide.values}
    due = [path for path in pictures if options.pictures and (anew or read_mark(path) != mark)]
    measured = None
    if due and slide.facts.has_counts:
        try:
            measured = read_measured(store, slide.facts, tuple(slide.values))
        except TissuaryError as error:  # the prediction stands without
            notes.append(f"what was measured cannot be shown: {error}")
    for path in due:
        write_gene_map(path, slide, pictures[path], measured=measured, scale=options.scale)
    familiarity, geojson = out / f"{slide_id}.familiarity.png", out / f"{slide_id}.geojson"
    if options.pictures and (anew or read_mark(familiarity) != mark):
        write_familiarity_map(familiarity, slide, mark)
        files.append(familiarity)
    if options.geojson and (anew or read_mark(geojson) != qupath_mark(slide)):
        write_qupath(geojson, slide)
        files.append(geojson)
        if slide.facts.bounds_px is None:
            notes.append(f"{geojson.name}: coordinates are {qupath_frame(slide.facts)[1]}")
    return due + files, notes


def _file_word(gene: str) -> str:
    """A gene's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_+-]", "-", gene)
