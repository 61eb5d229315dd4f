"""Featurize a cohort: every slide in turn, each on its own, so that one bad slide costs only itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.atomic import sweep_partials
from ..store.errors import BackboneError, CohortError, TissuaryError
from ..store.naming import UNKNOWN_PATIENT
from .job_plan import Plan
from .options import DENSITY, FeaturizeOptions, FeaturizeReport, Progress, SlideDone
from .readers import Readers
from .slide_job import PreparedSlide, Run, embed_slide, prepare_slide

if TYPE_CHECKING:
    from .backbones.build import Encoder
    from .cohort import Sample

log = logging.getLogger(__name__)


UNFORESEEN = (OSError, MemoryError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What libraries raise on pixels and counts that nobody foresaw: it costs the slide, not the cohort."""


def featurize(
    source: str | Path,
    store: str | Path,
    *,
    options: FeaturizeOptions | None = None,
    format: str = "auto",
    progress: Progress | None = None,
) -> FeaturizeReport:
    """Embed every patch of every slide of a cohort, once.

    Parameters
    ----------
    source
        What to read: a folder, a manifest, a slide.
    store
        Folder of the store; made where it is not there. Slides that are complete in it are skipped.
    options
        Views, backbones, scale and the like.
    format
        One of `tissuary.featurize.sources.SOURCES`, or "auto".

    Returns
    -------
    FeaturizeReport
        Slides done and failed, each failure with its cause.

    Raises
    ------
    TissuaryError
        If the cohort or a backbone cannot be read at all, or every slide failed (the first cause is given).
    """
    from .cohort import load_cohort

    options = options or FeaturizeOptions()
    started = time.perf_counter()
    cohort = load_cohort(Path(source), format=format, pitch_um=options.pitch_um)
    log.info("%s: %d slides (%s)", source, len(cohort.samples), cohort.source)
    encoders = build_encoders(options)
    root = Path(store)
    if root.is_dir():
        sweep_partials(root)
    with Readers(options.readers) as readers:
        run = Run(root, options, encoders, plan_of(options, encoders), readers)
        done, failed = run_slides(cohort.samples, run, progress=progress or _silent)
        stages = readers.stages.report(readers=options.readers)
    everything = (*cohort.refused, *((slide_id, str(cause)) for slide_id, cause in failed))
    if failed and not done:
        raise _all_failed(failed[0][1], everything)
    return FeaturizeReport(
        store=root,
        source=cohort.source,
        done=done,
        failed=everything,
        licences={name: encoder.record.terms for name, encoder in encoders.items()},
        unknown_patients=tuple(s.slide_id for s in cohort.samples if s.patient_id.startswith(UNKNOWN_PATIENT)),
        seconds=time.perf_counter() - started,
        stages=stages,
    )


def run_slides(
    samples: Sequence[Sample], run: Run, *, progress: Progress
) -> tuple[tuple[SlideDone, ...], tuple[tuple[str, TissuaryError], ...]]:
    """Slides that were done, and those that failed with their causes.

    While one slide is embedded the next is opened, looked at and read from, so that the model never waits for a
    slide to begin.
    """
    done: list[SlideDone] = []
    failed: list[tuple[str, TissuaryError]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as ahead:
        coming: Future[PreparedSlide] | None = None
        try:
            for sample, following in zip(samples, (*samples[1:], None), strict=True):
                current = coming or ahead.submit(prepare_slide, sample, run)
                coming = None
                with isolated(sample, failed):
                    prepared = current.result()
                    coming = ahead.submit(prepare_slide, following, run) if following is not None else None
                    done.append(embed_slide(prepared, run, progress=progress))
        finally:
            if coming is not None and coming.exception() is None:
                coming.result().close()
    return tuple(done), tuple(failed)


@contextmanager
def isolated(sample: Sample, failed: list[tuple[str, TissuaryError]]) -> Iterator[None]:
    """Let what goes wrong with a slide cost that slide only."""
    try:
        yield
    except TissuaryError as error:
        failed.append((sample.slide_id, error))
    except UNFORESEEN as error:
        log.warning("slide %s: %s", sample.slide_id, error, exc_info=True)
        failed.append((sample.slide_id, CohortError(f"slide {sample.slide_id}: {type(error).__name__}: {error}")))


def _all_failed(first: TissuaryError, failed: Sequence[tuple[str, str]]) -> TissuaryError:
    """The first cause, with the others as notes."""
    for slide_id, text in failed:
        if text != str(first):
            first.add_note(f"{slide_id}: {text}")
    first.add_note(f"None of the {len(failed)} slides could be done; the first cause stands first.")
    return first


def stored_names(options: FeaturizeOptions) -> tuple[str, ...]:
    """The part of the feature keys before the `@`, one per backbone asked for, known without loading weights."""
    from .backbones.record import RANDOM_SUFFIX
    from .backbones.registry import get_record

    if options.name is not None:
        return (options.name,)
    records = [get_record(name) for name in options.backbones]
    return tuple(
        record.key + (RANDOM_SUFFIX if options.weights.get(record.key) == "random" else "") for record in records
    )


def build_encoders(options: FeaturizeOptions) -> dict[str, Encoder]:
    """The encoders of a run, by the name their features are stored under.

    The one-number haematoxylin density is always among them.

    Raises
    ------
    BackboneError
        If a record, weights file or architecture cannot be used.
    """
    from .backbones.build import build_encoder
    from .backbones.registry import get_record

    records = [get_record(name) for name in options.backbones]
    unused = set(options.weights) - {record.key for record in records}
    if unused:
        msg = (
            f"weights were given for {', '.join(sorted(unused))}, which is not among the backbones "
            f"{', '.join(record.key for record in records)}"
        )
        raise CohortError(msg)
    device = _device(options.device)
    built = [
        build_encoder(
            record,
            weights=options.weights.get(record.key),
            device=device,
            precision=options.precision,
            compiled=options.compiled,
        )
        for record in records
    ]
    names = [options.name or encoder.record.key for encoder in built]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"two backbones are called {', '.join(twice)}: one would hide the other; give each record its own key"
        raise CohortError(msg)
    encoders = dict(zip(names, built, strict=True))
    for encoder in built:
        _check_grids(encoder, options.token_grids)
    encoders.setdefault(DENSITY, build_encoder(get_record(DENSITY), weights=None, device=device))
    return encoders


def _check_grids(encoder: Encoder, grids: Sequence[tuple[int, int]]) -> None:
    """Refuse token grids that a backbone does not have, before anything is read."""
    record = encoder.record
    for rows, columns in grids:
        own = record.token_grid
        if own is None or rows > own[0] or columns > own[1]:
            has = "no tokens" if own is None else f"{own[0]}x{own[1]} tokens"
            msg = f"backbone {record.key} has {has}, not {rows}x{columns}: ask for fewer, or leave --tokens out"
            raise BackboneError(msg)


def plan_of(options: FeaturizeOptions, encoders: dict[str, Encoder]) -> Plan:
    """Where this run computes, with the batch asked for or the one that suits the device."""
    import torch

    from .backbones.batch_size import automatic_batch

    device = torch.device(_device(options.device))
    batch = options.batch or automatic_batch(tuple(encoders.values()), device=str(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Plan(batch, torch.get_num_threads(), name, torch.__version__, options.compiled)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _silent(slide_id: str, done: int, total: int) -> None:
    """No one watches."""
