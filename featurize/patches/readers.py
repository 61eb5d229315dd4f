"""The threads that read, decode and resample, and the rule by which they share the cores with a network."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

READ, DECODE, RESAMPLE, WAIT, FORWARD, WRITE = "read", "decode", "resample", "wait", "forward", "write"

STAGES = {
    READ: "tiles",
    DECODE: "tiles",
    RESAMPLE: "patches",
    WAIT: "batches",
    FORWARD: "patches",
    WRITE: "rows",
}
"""Stage -> what it counts. The first three run beside the others on the readers' threads."""

STARVED = 0.1
"""Share of the embedding time spent waiting for pixels from which on the readers are called the limit."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: seconds summed over threads, and how much was done in them."""

    name: str
    seconds: float
    count: int
    unit: str

    @property
    def rate(self) -> float:
        """Count per second of the stage's own time; 0 where it took none."""
        return self.count / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class StageReport:
    """All stages of a run.

    Attributes
    ----------
    stages
        In the order of `STAGES`.
    readers
        Threads that read, decode and resample.
    bottleneck
        A sentence that names the limit.
    """

    stages: tuple[Stage, ...]
    readers: int
    bottleneck: str


class Stages:
    """Adds up seconds and counts of each stage, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._count = dict.fromkeys(STAGES, 0)

    def add(self, stage: str, seconds: float, count: int) -> None:
        """Book `seconds` in which `count` were done."""
        with self._lock:
            self._seconds[stage] += seconds
            self._count[stage] += count

    @contextmanager
    def timed(self, stage: str, count: int) -> Iterator[None]:
        """Book the time of a block of code."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started, count)

    def report(self, *, readers: int) -> StageReport:
        """What was booked so far."""
        with self._lock:
            stages = tuple(Stage(name, self._seconds[name], self._count[name], unit) for name, unit in STAGES.items())
        return StageReport(stages, readers, _bottleneck({stage.name: stage.seconds for stage in stages}))


def _bottleneck(seconds: dict[str, float]) -> str:
    """Judge by the main thread, which waits, computes and writes in turns; readers run beside it."""
    total = seconds[WAIT] + seconds[FORWARD] + seconds[WRITE]
    if not total:
        return "Nothing was embedded."
    share = {name: seconds[name] / total for name in (WAIT, FORWARD, WRITE)}
    if share[WRITE] > max(share[FORWARD], share[WAIT]):
        return f"Writing is the limit: {share[WRITE]:.0%} of the time went into the store; is its disk slow or full?"
    if share[WAIT] > STARVED:
        worst = max((READ, DECODE, RESAMPLE), key=lambda name: seconds[name])
        mend = "put the slides on a faster disk" if worst == READ else "give more --readers"
        return f"Reading is the limit: the model waited {share[WAIT]:.0%} of the time, mostly for {worst}; {mend}."
    return f"The model is the limit: it computed {share[FORWARD]:.0%} of the time and waited {share[WAIT]:.0%}."


P = ParamSpec("P")
T = TypeVar("T")

NICENESS = 5
"""Readers give way to the thread that computes, where both want one core."""


class Readers:
    """The threads that read, decode and resample, shared by all slides of a run, and what they cost.

    Jobs start in the order in which they were submitted.

    Parameters
    ----------
    threads
        How many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.stages = Stages()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader", initializer=_give_way)
        self._may_start = threading.Event()
        self._may_start.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._may_start.set()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a job done."""

        def start() -> T:
            self._may_start.wait()
            return job(*args, **kwargs)

        return self._pool.submit(start)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Begin no job meanwhile: the cores belong to a network.

        A network that computes on every core waits, at the end of each of its operations, for the slowest of them. A
        second that a reader takes from one core is then lost on all; taken between two batches it is shared by all.
        """
        self._may_start.clear()
        try:
            yield
        finally:
            self._may_start.set()


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        with suppress(OSError):  # a sandbox may forbid it; it only costs speed
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
