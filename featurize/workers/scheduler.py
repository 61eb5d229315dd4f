"""Slides to workers: each has one in work and at most one opened ahead, and what a dead worker had goes to another."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...store.errors import CohortError, StoreError, TissuaryError
from ...store.files.lock import STALE_S, SlideBusyError
from ..one_slide import SlideOutcome
from ..options import Progress
from ..patches.readers import StageReport, Stages
from .messages import Event, Finished, Ready, SlideProgress, SlideTask, StartFailed, WorkerLost, WorkerPool

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Workers that a slide may cost before it is given up: it may be the slide that kills them."""

GATHER_S = 60.0
"""How long the first worker waits for the others, so that all follow the smallest batch."""

BUSY_S = 5.0
"""Between two looks at a slide that another job is at."""

ORPHANED_S = STALE_S + 60.0
"""How long a slide whose worker died may still look taken: its claim has to go stale, its lock to be let go of."""


@dataclass(frozen=True)
class Scheduled:
    """What became of all slides.

    Attributes
    ----------
    retried
        (slide, cause) for each time a slide was begun again elsewhere.
    """

    outcomes: dict[str, SlideOutcome]
    retried: tuple[tuple[str, str], ...]
    licences: dict[str, str]
    stages: StageReport


class Scheduler:
    """Hands slides to a crew until each has an outcome.

    Parameters
    ----------
    slide_ids
        In the order in which they are to be begun.
    """

    def __init__(self, slide_ids: Sequence[str], crew: WorkerPool, *, progress: Progress) -> None:
        self._crew, self._progress = crew, progress
        self._waiting = deque(slide_ids)
        self._put_off: list[tuple[float, str]] = []  # not before, slide
        self._ready: dict[str, Ready] = {}
        self._unfit: list[StartFailed] = []
        self._idle: dict[str, str | None] = {}  # worker, and the slide that it has opened already
        self._duty: dict[str, tuple[str, str | None]] = {}  # worker, its slide and the one it opens meanwhile
        self._deaths: dict[str, list[str]] = {}
        self._orphaned: dict[str, float] = {}
        self._busy: set[str] = set()
        self._outcomes: dict[str, SlideOutcome] = {}
        self._retried: list[tuple[str, str]] = []
        self._licences: dict[str, str] = {}
        self._stages: dict[str, StageReport] = {}
        self._batch = self._threads = 0

    def run(self) -> Scheduled:
        """Work until all slides are done, failed or left to other jobs.

        Raises
        ------
        TissuaryError
            If no worker can begin, with the first cause.
        """
        self._gather()
        while self._waiting or self._put_off or self._duty or any(self._idle.values()):
            self._hand_out()
            if not self._duty and not self._idle and not self._crew.starting():
                self._give_up()
                break
            for event in self._crew.wait(1.0):
                self._book(event)
        return Scheduled(self._outcomes, tuple(self._retried), self._licences, self._all_stages())

    def _gather(self) -> None:
        """Wait for the workers, and agree on the smallest batch and number of threads among them."""
        first_at: float | None = None
        while self._crew.starting() and (first_at is None or time.monotonic() - first_at < GATHER_S):
            for event in self._crew.wait(1.0):
                self._book(event)
            if self._ready and first_at is None:
                first_at = time.monotonic()
        if not self._ready:
            if self._unfit:
                raise self._unfit[0].error
            msg = "no worker could be started; see the log, and try --engine local"
            raise CohortError(msg)
        self._batch = min(one.batch for one in self._ready.values())
        self._threads = min(one.threads for one in self._ready.values())
        log.info("%d workers, batches of %d, %d threads each", len(self._ready), self._batch, self._threads)

    def _hand_out(self) -> None:
        free = [(worker, self._idle[worker] or self._next()) for worker in sorted(self._idle)]
        for worker, slide_id in free:
            if slide_id is None:
                continue
            # The last slides stay with the scheduler, for whoever is free first.
            ahead = self._waiting.popleft() if len(self._waiting) >= len(self._ready) else None
            del self._idle[worker]
            self._duty[worker] = slide_id, ahead
            self._crew.send(worker, SlideTask(slide_id, ahead, self._batch, self._threads))

    def _next(self) -> str | None:
        if self._waiting:
            return self._waiting.popleft()
        due = [entry for entry in sorted(self._put_off) if entry[0] <= time.monotonic()]
        if not due:
            return None
        self._put_off.remove(due[0])
        return due[0][1]

    def _book(self, event: Event) -> None:
        match event:
            case SlideProgress():
                self._progress(event.slide_id, event.done, event.total)
            case Ready():
                self._ready[event.worker] = event
                self._idle[event.worker] = None
                self._licences |= event.licences
            case StartFailed():
                log.warning("worker %s cannot begin: %s", event.worker, event.error)
                self._unfit.append(event)
            case Finished():
                self._stages[event.worker] = event.stages
                _, ahead = self._duty.pop(event.worker)
                self._idle[event.worker] = ahead
                self._end(event.outcome)
            case WorkerLost():
                self._bury(event)

    def _end(self, outcome: SlideOutcome) -> None:
        """Keep an outcome; what another job was at is looked at again when everything else is done."""
        slide_id, error = outcome.slide_id, outcome.error
        orphaned = time.monotonic() - self._orphaned.get(slide_id, -ORPHANED_S) < ORPHANED_S
        first_time = isinstance(error, SlideBusyError) and slide_id not in self._busy
        if first_time or (orphaned and isinstance(error, StoreError)):
            log.warning("slide %s is put off: %s", slide_id, error)
            self._busy.add(slide_id)
            self._put_off.append((time.monotonic() + (BUSY_S if orphaned else 0.0), slide_id))
        else:
            self._outcomes[slide_id] = outcome

    def _bury(self, event: WorkerLost) -> None:
        """Take back what a dead worker had."""
        self._ready.pop(event.worker, None)
        ahead = self._idle.pop(event.worker, None)
        current, reserved = self._duty.pop(event.worker, (None, ahead))
        if current is None:
            log.warning("worker %s died: %s", event.worker, event.cause)
        for slide_id in (reserved, current):
            if slide_id is not None:
                self._orphaned[slide_id] = time.monotonic()
                self._waiting.appendleft(slide_id)
        if current is not None:
            self._count_death(current, event)

    def _count_death(self, slide_id: str, event: WorkerLost) -> None:
        deaths = self._deaths.setdefault(slide_id, [])
        deaths.append(f"{event.worker}: {event.cause}")
        if len(deaths) < MAX_DEATHS:
            log.warning(
                "slide %s: its worker %s died (%s); it is tried again elsewhere, from the last block written",
                slide_id, event.worker, event.cause,
            )  # fmt: skip
            self._retried.append((slide_id, deaths[-1]))
            return
        self._waiting.remove(slide_id)
        msg = f"slide {slide_id}: {len(deaths)} workers died at it ({'; '.join(deaths)}); is their memory too small?"
        self._outcomes[slide_id] = SlideOutcome(slide_id, error=CohortError(msg))

    def _give_up(self) -> None:
        """Without a worker, nothing more can be done; what is done stays."""
        cause: TissuaryError = CohortError("no worker is left; run again, and what is complete is skipped")
        for slide_id in (*self._waiting, *(slide_id for _, slide_id in self._put_off)):
            self._outcomes[slide_id] = SlideOutcome(slide_id, error=cause)

    def _all_stages(self) -> StageReport:
        """The stages of all workers together."""
        together = Stages()
        for report in self._stages.values():
            for stage in report.stages:
                together.add(stage.name, stage.seconds, stage.count)
        return together.report(readers=sum(report.readers for report in self._stages.values()))
