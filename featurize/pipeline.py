"""Featurize a cohort: every slide on its own, so that one bad slide costs only itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.errors import TissuaryError
from ..store.files.atomic import check_writable, sweep_partials
from ..store.files.lock import SlideBusyError
from ..store.naming import UNKNOWN_PATIENT
from .one_slide import FeaturizeRun, SlideOutcome, SlideWorker, isolated
from .options import RAY, FeaturizeOptions, FeaturizeReport, Progress, SlideDone
from .outputs import check_keys
from .patches.readers import Readers
from .setup import build_encoders, cohort_of, plan_of, stored_names
from .workers.shards import dearest_first, image_bytes

if TYPE_CHECKING:
    from .sources.sample import Cohort, Sample
    from .workers.messages import WorkerConfig, WorkerPool
    from .workers.scheduler import Scheduled

__all__ = ["build_encoders", "featurize", "isolated", "plan_of", "run_slides", "stored_names"]

log = logging.getLogger(__name__)


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
        Views, backbones, scale and the like; where to compute, and which share of the cohort.
    format
        One of `tissuary.featurize.sources.SOURCES`, or "auto".

    Returns
    -------
    FeaturizeReport
        Slides done, failed (each with its cause), and left to other jobs that are at them.

    Raises
    ------
    TissuaryError
        If the cohort or a backbone cannot be read at all, the store holds features of another encoder under a key that
        would be written, no worker can begin, or every slide failed (the first cause is given).
    """
    options = options or FeaturizeOptions()
    started = time.perf_counter()
    cohort = cohort_of(source, options, format=format)
    log.info("%s: %d slides (%s)", source, len(cohort.samples), cohort.source)
    # Absolute, so that slide files say the same wherever they are made.
    cohort = replace(cohort, samples=tuple(replace(one, image=one.image.absolute()) for one in cohort.samples))
    root = Path(store)
    check_writable(root)
    if root.is_dir():
        sweep_partials(root)
    if options.engine == RAY or len(options.devices) > 1:
        post = _post(cohort.samples, source, format, root, options)
        found = embed_elsewhere(cohort.samples, post, progress=progress or _silent)
        if found.retried:
            sweep_partials(root)  # what the workers that died had half written
    else:
        found = _embed_here(cohort.samples, root, options, progress=progress or _silent)
    return _report(cohort, found, root, seconds=time.perf_counter() - started)


def _post(
    samples: Sequence[Sample], source: str | Path, format: str, root: Path, options: FeaturizeOptions
) -> WorkerConfig:
    """What workers are told, in paths that hold whatever folder they run in."""
    from .backbones.build import RANDOM
    from .workers.messages import WorkerConfig

    weights = {key: name if name == RANDOM else str(Path(name).absolute()) for key, name in options.weights.items()}
    backbones = tuple(str(Path(name).absolute()) if name.endswith(".json") else name for name in options.backbones)
    images = {one.slide_id: (str(one.image), image_bytes(one.image)) for one in samples}
    options = replace(options, weights=weights, backbones=backbones)
    return WorkerConfig(str(Path(source).absolute()), format, root.absolute(), options, images)


def _embed_here(samples: Sequence[Sample], root: Path, options: FeaturizeOptions, *, progress: Progress) -> Scheduled:
    """Embed slides in this process, on one device."""
    from .workers.scheduler import Scheduled

    encoders = build_encoders(options)
    licences = {name: encoder.record.terms for name, encoder in encoders.items()}
    with Readers(options.readers) as readers:
        run = FeaturizeRun(root, options, encoders, plan_of(options, encoders), readers)
        check_keys(run.keys, options, encoders)
        outcomes = _outcomes(samples, run, progress=progress)
        return Scheduled(outcomes, (), licences, readers.stages.report(readers=options.readers))


def run_slides(
    samples: Sequence[Sample], run: FeaturizeRun, *, progress: Progress
) -> tuple[tuple[SlideDone, ...], tuple[tuple[str, TissuaryError], ...]]:
    """Slides that were done, and those that failed with their causes."""
    return _parted(samples, _outcomes(samples, run, progress=progress))


def _outcomes(samples: Sequence[Sample], run: FeaturizeRun, *, progress: Progress) -> dict[str, SlideOutcome]:
    """Embed slides in turn; those that another job is at are looked at again when all else is done."""
    outcomes: dict[str, SlideOutcome] = {}
    with SlideWorker(run) as worker:
        for last_look in (False, True):
            waiting = [one for one in samples if one.slide_id not in outcomes]
            for sample, following in zip(waiting, (*waiting[1:], None), strict=False):
                outcome = worker.embed(sample, following=following, progress=progress)
                if isinstance(outcome.error, SlideBusyError) and not last_look:
                    log.warning("slide %s is put off: %s", sample.slide_id, outcome.error)
                    continue
                outcomes[sample.slide_id] = outcome
    return outcomes


def _parted(
    samples: Sequence[Sample], outcomes: dict[str, SlideOutcome]
) -> tuple[tuple[SlideDone, ...], tuple[tuple[str, TissuaryError], ...]]:
    """Slides that were done and those that were not, in the cohort's order."""
    in_order = [outcomes[one.slide_id] for one in samples]
    done = tuple(one.done for one in in_order if one.done is not None)
    return done, tuple((one.slide_id, one.error) for one in in_order if one.error is not None)


def _report(cohort: Cohort, found: Scheduled, root: Path, *, seconds: float) -> FeaturizeReport:
    done, unfinished = _parted(cohort.samples, found.outcomes)
    failed = [(slide_id, error) for slide_id, error in unfinished if not isinstance(error, SlideBusyError)]
    left = tuple((slide_id, str(error)) for slide_id, error in unfinished if isinstance(error, SlideBusyError))
    everything = (*cohort.refused, *((slide_id, str(cause)) for slide_id, cause in failed))
    if failed and not done and not left:
        raise _all_failed(failed[0][1], everything)
    return FeaturizeReport(
        store=root,
        source=cohort.source,
        done=done,
        failed=everything,
        licences=found.licences,
        unknown_patients=tuple(s.slide_id for s in cohort.samples if s.patient_id.startswith(UNKNOWN_PATIENT)),
        seconds=seconds,
        stages=found.stages,
        left=left,
        retried=found.retried,
        left_out=cohort.left_out,
    )


def _all_failed(first: TissuaryError, failed: Sequence[tuple[str, str]]) -> TissuaryError:
    """The first cause, with the others as notes."""
    for slide_id, text in failed:
        if text != str(first):
            first.add_note(f"{slide_id}: {text}")
    first.add_note(f"None of the {len(failed)} slides could be done; the first cause stands first.")
    return first


def _silent(slide_id: str, done: int, total: int) -> None:
    """No one watches."""


def embed_elsewhere(samples: Sequence[Sample], post: WorkerConfig, *, progress: Progress) -> Scheduled:
    """Embed slides by workers in other processes: on the devices named, or on a Ray cluster.

    Raises
    ------
    TissuaryError
        If no worker can begin.
    """
    from .workers.scheduler import Scheduler

    with _crew(post) as crew:
        return Scheduler([one.slide_id for one in dearest_first(samples)], crew, progress=progress).run()


@contextmanager
def _crew(post: WorkerConfig) -> Iterator[WorkerPool]:
    if post.options.engine == RAY:
        from .workers.ray_ import RayCrew, connected

        with connected(post.options.address) as ray:
            on_ray = RayCrew(ray, post)
            try:
                yield on_ray
            finally:
                on_ray.close()
        return
    from .workers.processes import DevicePool, posts_of

    pool = DevicePool(posts_of(post))
    try:
        yield pool
    finally:
        pool.close()
