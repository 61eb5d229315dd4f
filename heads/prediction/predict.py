"""Apply a run to the slides of a store: expression maps as AnnData, pictures and GeoJSON."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...store.atomic import sweep_partials
from ...store.errors import HeadError, StoreError, TissuaryError
from ...store.lock import slide_lock
from ...store.store import Store
from .blocks import BLOCK_ROWS
from .map_picture import write_familiarity_map, write_gene_map
from .marks import mark_of, read_mark
from .qupath import write_qupath
from .run import Run, load_run
from .slide_map import SlideMap, read_slide_map
from .slide_prediction import plan_slide, predict_slide

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
    """

    patches: str | None = None
    slides: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()
    block_rows: int = BLOCK_ROWS
    device: str | None = None
    pictures: bool = True
    geojson: bool = True


@dataclass(frozen=True)
class SlideReport:
    """One slide that was predicted.

    Attributes
    ----------
    rows
        Spots or tiles.
    flagged
        Share of them that lie farther from the training rows than 99 in 100 of these from other patients.
    median_unfamiliar
        Median share of training rows that lie nearer.
    kept
        Whether the AnnData was there already.
    files
        That were written.
    notes
        What differs from training, a sentence each.
    """

    slide_id: str
    rows: int
    flagged: float
    median_unfamiliar: float
    kept: bool
    files: tuple[str, ...]
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
    run: Run | Path | str,
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
    opened = store if isinstance(store, Store) else Store(store)
    loaded = run if isinstance(run, Run) else load_run(Path(run), device=options.device)
    genes = _genes(loaded, options.genes)
    patches = options.patches or opened.default_patches
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


def _genes(run: Run, wanted: tuple[str, ...]) -> tuple[str, ...]:
    missing = [gene for gene in wanted if gene not in run.saved.panel]
    if missing:
        some = ", ".join(run.saved.panel[:5])
        msg = f"{', '.join(missing)}: not among the {len(run.saved.panel)} genes that this run predicts ({some}, ...)"
        raise HeadError(msg)
    return tuple(dict.fromkeys(wanted)) or run.shown_genes(SHOWN_GENES)


def _slides(run: Run, store: Store, wanted: tuple[str, ...], *, patches: str) -> tuple[str, ...]:
    keys = (*run.familiarity.keys, *run.saved.keys("token"), *run.saved.keys("control"))
    able = store.slides_with(keys, patches=patches)
    found = tuple(dict.fromkeys(wanted)) or able
    missing = [slide for slide in found if slide not in able]
    if missing or not found:
        what = f"slides {', '.join(missing)} of {store.path} lack" if missing else f"no slide of {store.path} has"
        have = "; ".join(f"{name}: {', '.join(store.keys(name))}" for name in store.patch_sets) or "nothing"
        msg = (
            f"{what} the features of this run, {', '.join(dict.fromkeys(keys))}, on {patches!r} (it has {have}): "
            "featurize them with the backbone and views of training, or choose others with `--patches`"
        )
        raise StoreError(msg)
    return found


def _one(
    run: Run,
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
    slide = read_slide_map(path, genes)
    files = [path] if made else []
    files += _drawn(slide, out, options=options, anew=made or bool(options.genes))
    return SlideReport(
        slide_id=slide_id,
        rows=len(slide.center_px),
        flagged=float(slide.flagged.mean()) if len(slide.flagged) else float("nan"),
        median_unfamiliar=float(np.median(slide.unfamiliar)) if len(slide.flagged) else float("nan"),
        kept=not made,
        files=tuple(map(str, files)),
        notes=plan.notes,
    )


def _drawn(slide: SlideMap, out: Path, *, options: PredictOptions, anew: bool) -> list[Path]:
    """Write pictures and GeoJSON that are not there, show another prediction, or are to be written anew."""
    if not len(slide.center_px):
        return []
    files, mark = [], mark_of(slide)
    pictures = {out / f"{slide.slide_id}.{_file_word(gene)}.png": gene for gene in slide.values}
    for path, gene in pictures.items() if options.pictures else ():
        if anew or read_mark(path) != mark:
            write_gene_map(path, slide, gene)
            files.append(path)
    others = (
        (options.pictures, out / f"{slide.slide_id}.familiarity.png", write_familiarity_map),
        (options.geojson, out / f"{slide.slide_id}.geojson", write_qupath),
    )
    for wanted, path, write in others:
        if wanted and (anew or read_mark(path) != mark):
            write(path, slide)
            files.append(path)
    return files


def _file_word(gene: str) -> str:
    """A gene's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_+-]", "-", gene)
