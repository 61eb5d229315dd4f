"""The threads that read, decode and resample, and the rule by which they share the cores with a network."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from .stages import Stages

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
