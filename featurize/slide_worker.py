"""One encoder and its readers at work: slide after slide, the next one opened while this one is embedded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from ..store.errors import CohortError, TissuaryError, plain_text
from .claim import check_claim
from .cohort import Sample
from .options import Progress, SlideDone
from .slide_job import PreparedSlide, Run, embed_slide, prepare_slide
from .smaller_batch import forget_unfinished, out_of_memory, plan_in_half, sinks_of

log = logging.getLogger(__name__)

UNFORESEEN = (OSError, MemoryError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What libraries raise on pixels and counts that nobody foresaw: it costs the slide, not the cohort."""


@dataclass(frozen=True)
class Outcome:
    """What became of a slide: done, or the error it failed with."""

    slide_id: str
    done: SlideDone | None = None
    error: TissuaryError | None = None


@contextmanager
def isolated(sample: Sample, failed: list[tuple[str, TissuaryError]]) -> Iterator[None]:
    """Let what goes wrong with a slide cost that slide only."""
    try:
        yield
    except TissuaryError as error:
        failed.append((sample.slide_id, error))
    except UNFORESEEN as error:
        log.warning("slide %s: %s", sample.slide_id, plain_text(error), exc_info=True)
        cause = CohortError(f"slide {sample.slide_id}: {type(error).__name__}: {plain_text(error)}")
        failed.append((sample.slide_id, cause))


class SlideWorker:
    """Embeds slides one after another, so that the model never waits for a slide to begin.

    As a context manager it lets go of the slide that it had opened ahead.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._coming: tuple[str, Future[PreparedSlide]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop_coming()
        self._ahead.shutdown()

    def embed(self, sample: Sample, *, following: Sample | None, progress: Progress) -> Outcome:
        """Embed a slide; `following` is opened, looked at and read from meanwhile."""
        failed: list[tuple[str, TissuaryError]] = []
        done = None
        with isolated(sample, failed):
            done = self._embed(sample, following, progress=progress)
        return Outcome(sample.slide_id, done, failed[0][1] if failed else None)

    def _embed(self, sample: Sample, following: Sample | None, *, progress: Progress) -> SlideDone:
        while True:
            prepared = self._take(sample)
            for sink in sinks_of(prepared.passes):
                sink.job.guard(partial(check_claim, self._run.root, sample.slide_id))
            if following is not None and self._coming is None:
                self._coming = following.slide_id, self._prepare(following)
            try:
                return embed_slide(prepared, self._run, progress=progress)
            except RuntimeError as error:
                smaller = plan_in_half(prepared.passes, self._run.plan) if out_of_memory(error) else None
                if smaller is None:
                    raise
            # Out of the handler, which would keep the tensors of the failed batch alive.
            self._go_on_with(smaller.batch, prepared)

    def _go_on_with(self, batch: int, prepared: PreparedSlide) -> None:
        slide_id = prepared.sample.slide_id
        log.warning(
            "slide %s: out of device memory; it and the slides after it are made in batches of %d, as with --batch %d",
            slide_id, batch, batch,
        )  # fmt: skip
        self._drop_coming()  # it was opened under the larger plan
        self._run = replace(self._run, plan=replace(self._run.plan, batch=batch))
        forget_unfinished(self._run.root, slide_id, prepared.passes)

    def _take(self, sample: Sample) -> PreparedSlide:
        """The slide, opened: ahead if it was announced, else now."""
        if self._coming is not None and self._coming[0] == sample.slide_id:
            opened, self._coming = self._coming[1], None
            return opened.result()
        self._drop_coming()
        return self._prepare(sample).result()

    def _prepare(self, sample: Sample) -> Future[PreparedSlide]:
        return self._ahead.submit(prepare_slide, sample, self._run)

    def _drop_coming(self) -> None:
        coming, self._coming = self._coming, None
        if coming is not None and coming[1].exception() is None:
            coming[1].result().close()
