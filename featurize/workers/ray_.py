"""Workers on a Ray cluster: one actor on each GPU or share of CPUs, with its readers beside it in the same process."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...store.errors import CohortError, MissingDependencyError
from ..options import default_readers
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
    from types import ModuleType

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Room for one worker.

    Attributes
    ----------
    name
        Of the worker: node and number.
    node_id
        Ray's.
    """

    name: str
    node_id: str
    cpus: int
    gpus: int


def import_ray() -> ModuleType:
    """Ray itself.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        msg = "--engine ray needs Ray, which is not installed: pip install 'tissuary[ray]'"
        raise MissingDependencyError(msg) from error
    found: ModuleType = ray
    return found


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Be connected to a cluster: the one that is connected to already, that of `address`, or this machine alone.

    Raises
    ------
    CohortError
        If there is no cluster at `address`.
    MissingDependencyError
        If Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # names of patients' slides are nobody else's business
    try:
        if address is None:
            ray.init("local", include_dashboard=False, log_to_driver=True)
        else:
            ray.init(address=address, log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        msg = (
            f"no Ray cluster can be reached at {address!r} ({type(error).__name__}: {error}): start one with "
            "`ray start --head`, give its --address, or leave it out to use this machine alone"
        )
        raise CohortError(msg) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def slots_of(nodes: Sequence[dict[str, Any]], *, device: str, threads: int | None) -> tuple[Slot, ...]:
    """Where workers fit: one on each GPU, or on each `threads` CPUs (on all CPUs of a node where None).

    Parameters
    ----------
    nodes
        As `ray.nodes()` tells.
    device
        "cpu", "cuda", or "auto" for GPUs if any node has one.
    """
    alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: (_host(node), node["NodeID"]))
    on_gpus = device == "cuda" or (device == "auto" and any(node["Resources"].get("GPU", 0) >= 1 for node in alive))
    slots = []
    for node in alive:
        cpus, gpus = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))
        count = gpus if on_gpus else cpus // (threads or max(1, cpus))
        each = cpus // max(1, count) if on_gpus else threads or cpus
        for number in range(count):
            name = f"{_host(node)}-{node['NodeID'][:6]}:{number}"
            slots.append(Slot(name, node["NodeID"], each, int(on_gpus)))
    return tuple(slots)


def _host(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])


MAX_RESTARTS = 3
"""Times that the worker of one slot is started again while its node lives."""

LOOK_S = 5.0
"""Between two looks for nodes that came or went."""

TELL_S = 1.0
"""Between two questions about progress."""

REPLACEMENT_S = 60.0
"""How long a job without any worker waits for a node to come."""


class RayWorker:
    """The actor: a `Worker` that answers about its progress from a second thread."""

    def __init__(self, name: str, post: WorkerConfig) -> None:
        settle_in()
        self._hand = Worker(name, post)
        self._at: SlideProgress | None = None

    def hello(self) -> Ready | StartFailed:
        """Read the source and build the encoders."""
        return self._hand.hello()

    def embed(self, task: SlideTask) -> Finished:
        """Embed a slide."""

        def note(slide_id: str, done: int, total: int) -> None:
            self._at = SlideProgress(slide_id, done, total)

        return self._hand.embed(task, note)

    def where(self) -> SlideProgress | None:
        """How far the slide in work is."""
        return self._at


class RayCrew:
    """Actors of a cluster; a `WorkerPool`. Nodes that join later get workers too.

    Parameters
    ----------
    ray
        Connected.
    """

    def __init__(self, ray: ModuleType, post: WorkerConfig) -> None:
        self._ray, self._post = ray, post
        self._actors: dict[str, Any] = {}
        self._slots: dict[str, Slot] = {}
        self._asked: dict[Any, str] = {}  # answer to come, and whose: of hello and embed
        self._asked_where: dict[Any, str] = {}
        self._at_work: set[str] = set()
        self._starting: set[str] = set()
        self._restarts: Counter[str] = Counter()
        self._told_at = self._looked_at = 0.0
        self._alone_since: float | None = None
        self._look()
        if not self._actors:
            wanted = "GPU" if post.options.device == "cuda" else "CPU"
            msg = f"the Ray cluster has no {wanted} for a worker: it has {ray.cluster_resources()}"
            raise CohortError(msg)

    def _look(self) -> None:
        """Start workers where there is room and none is."""
        self._looked_at = time.monotonic()
        options = self._post.options
        for slot in slots_of(self._ray.nodes(), device=options.device, threads=options.threads):
            if slot.name not in self._actors and self._restarts[slot.name] <= MAX_RESTARTS:
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        given = self._post.options
        readers = max(2, slot.cpus) if given.readers == default_readers() else given.readers
        options = replace(
            given,
            engine="local",
            address=None,
            device="cuda" if slot.gpus else "cpu",  # Ray shows each actor its own GPU alone
            threads=given.threads or max(1, slot.cpus),
            readers=readers,
        )
        actor = self._ray.remote(RayWorker).options(
            num_cpus=slot.cpus,
            num_gpus=slot.gpus,
            max_concurrency=2,  # a slide, and questions about it
            max_restarts=0,  # the scheduler knows what was lost
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node_id, soft=False),
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
        )
        self._actors[slot.name] = actor.remote(slot.name, replace(self._post, options=options))
        self._slots[slot.name] = slot
        self._starting.add(slot.name)
        self._restarts[slot.name] += 1
        self._asked[self._actors[slot.name].hello.remote()] = slot.name

    def send(self, worker: str, task: SlideTask) -> None:
        """Give a worker a slide; one that died meanwhile is found out by `wait`."""
        if worker in self._actors:
            self._at_work.add(worker)
            self._asked[self._actors[worker].embed.remote(task)] = worker

    def starting(self) -> int:
        """Workers that have not said anything yet; one that is hoped for, where the last has just gone."""
        hoped = self._alone_since is not None and time.monotonic() - self._alone_since < REPLACEMENT_S
        return len(self._starting) + int(hoped and not self._actors)

    def wait(self, timeout_s: float) -> list[Event]:
        """What the actors answered, and which died."""
        if time.monotonic() - self._looked_at > LOOK_S:
            self._look()
        self._ask_where()
        asked = [*self._asked, *self._asked_where]
        if not asked:
            time.sleep(timeout_s)
            return []
        self._ray.wait(asked, num_returns=1, timeout=timeout_s)
        there, _ = self._ray.wait(asked, num_returns=len(asked), timeout=0)
        return [event for answer in there for event in self._event(answer)]

    def _ask_where(self) -> None:
        if time.monotonic() - self._told_at < TELL_S:
            return
        self._told_at = time.monotonic()
        for worker in self._at_work - set(self._asked_where.values()):
            self._asked_where[self._actors[worker].where.remote()] = worker

    def _event(self, answer: Any) -> list[Event]:
        worker = self._asked.pop(answer, None) or self._asked_where.pop(answer, None)
        if worker is None:  # its worker was found dead by another answer
            return []
        try:
            event: Event | None = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:  # gone, no memory or room for it, or what it did not foresee
            return [self._bury(worker, error)]
        if isinstance(event, Ready | StartFailed):
            self._starting.discard(worker)
            self._alone_since = None
        if isinstance(event, Finished):
            self._at_work.discard(worker)
        return [] if event is None else [event]

    def _bury(self, worker: str, error: Exception) -> WorkerLost:
        self._ray.kill(self._actors.pop(worker))  # it may only be out of reach; its slide is about to go elsewhere
        self._starting.discard(worker)
        self._at_work.discard(worker)
        for asked in (self._asked, self._asked_where):
            for answer in [answer for answer, whose in asked.items() if whose == worker]:
                del asked[answer]
        if not self._actors:
            self._alone_since = time.monotonic()
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        gone = "" if self._slots[worker].node_id in alive else "its node is gone: "
        return WorkerLost(worker, gone + _first_line(error))

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors.values():
            self._ray.kill(actor)


def _first_line(error: Exception) -> str:
    """What an error says; of one that a worker raised, that error and not where it came from."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
