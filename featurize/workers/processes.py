"""Several devices of this machine, each with a process of its own: encoders, readers and one slide after another."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NoReturn

from ...store.limits import deaf_to_interrupts
from ..forward import CORES
from .messages import (
    Event,
    Finished,
    Ready,
    SlideProgress,
    SlideTask,
    StartFailed,
    Worker,
    WorkerConfig,
    WorkerLost,
    settle_in,
)

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

log = logging.getLogger(__name__)

MAX_RESTARTS = 3
"""Times that the worker of one device is started again."""

TELL_S = 0.2
"""Between two words about progress."""

LEAVE_S = 10.0
"""For a worker to leave by itself."""


def posts_of(post: WorkerConfig) -> dict[str, WorkerConfig]:
    """One post for each device asked for, with its share of cores and readers, by the worker's name."""
    devices = post.options.devices
    threads = post.options.threads or max(1, CORES // max(1, sum(name == "cpu" for name in devices)))
    readers = max(1, post.options.readers // len(devices))
    return {
        f"{number}:{name}": replace(post, options=replace(post.options, device=name, threads=threads, readers=readers))
        for number, name in enumerate(devices)
    }


class DevicePool:
    """Worker processes of this machine; a `WorkerPool`.

    They are spawned, not forked, which CUDA demands: a script that calls `featurize` with several devices needs the
    usual `if __name__ == "__main__":`.
    """

    def __init__(self, posts: dict[str, WorkerConfig]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._posts = posts
        self._processes: dict[str, SpawnProcess] = {}
        self._lines: dict[str, Connection[Any, Any]] = {}
        self._starting: set[str] = set()
        self._restarts: Counter[str] = Counter()
        for name in posts:
            self._start(name)

    def _start(self, name: str) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(name, self._posts[name], theirs), name=name, daemon=True)
        with deaf_to_interrupts():
            process.start()
        theirs.close()
        self._processes[name], self._lines[name] = process, ours
        self._starting.add(name)

    def pids(self) -> dict[str, int]:
        """Process number of each worker."""
        return {name: process.pid or 0 for name, process in self._processes.items()}

    def send(self, worker: str, task: SlideTask) -> None:
        """Give a worker a slide; one that died meanwhile is found out by `wait`."""
        try:
            self._lines[worker].send(task)
        except OSError:
            log.debug("worker %s does not listen", worker)

    def starting(self) -> int:
        """Workers that have not said anything yet."""
        return len(self._starting)

    def wait(self, timeout_s: float) -> list[Event]:
        """What the workers said, and which died."""
        events: list[Event] = []
        names = {id(line): name for name, line in self._lines.items()}
        for line in wait(list(self._lines.values()), timeout=timeout_s):
            name = names[id(line)]
            try:
                event: Ready | StartFailed | SlideProgress | Finished = self._lines[name].recv()
            except (EOFError, OSError):
                events.append(self._bury(name))
                continue
            if isinstance(event, Ready | StartFailed):
                self._starting.discard(name)
            events.append(event)
        if not self._lines:
            time.sleep(timeout_s)
        return events

    def _bury(self, name: str) -> WorkerLost:
        process = self._processes.pop(name)
        process.join()
        self._lines.pop(name).close()
        self._starting.discard(name)
        code = process.exitcode or 0
        if code and self._restarts[name] < MAX_RESTARTS:
            self._restarts[name] += 1
            self._start(name)
        return WorkerLost(name, f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def close(self) -> None:
        """End the workers; those at a slide at once, as its file goes on from the last block."""
        for line in self._lines.values():
            line.close()
        until = time.monotonic() + LEAVE_S
        for process in self._processes.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join()


def _work(name: str, post: WorkerConfig, line: Connection[Any, Any]) -> None:
    """Serve until nobody listens any more."""
    settle_in()
    hand = Worker(name, post)
    told = 0.0

    def tell(slide_id: str, done: int, total: int) -> None:
        nonlocal told
        if done == total or time.monotonic() - told > TELL_S:
            told = time.monotonic()
            _say(line, SlideProgress(slide_id, done, total))

    _say(line, hand.hello())
    while True:
        _say(line, hand.embed(_hear(line), tell))


def _say(line: Connection[Any, Any], event: Event) -> None:
    try:
        line.send(event)
    except OSError:
        _leave()


def _hear(line: Connection[Any, Any]) -> SlideTask:
    try:
        task: SlideTask = line.recv()
    except (EOFError, OSError):
        _leave()
    return task


def _leave() -> NoReturn:
    """Whoever began this run is gone, or done; claim and lock of a slide that was opened ahead go with the process."""
    os._exit(0)
