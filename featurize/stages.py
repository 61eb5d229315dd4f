"""Where the time of a featurization goes: seconds, rate, and the stage that is the limit, in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
