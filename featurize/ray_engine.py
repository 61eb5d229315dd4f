"""Workers on a Ray cluster: one actor on each GPU or share of CPUs, with its readers beside it in the same process."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..store.errors import CohortError
from .crew import Died, Event, Finished, Hand, Moved, Post, Ready, Task, Unfit, settle_in
from .options import default_readers
from .ray_cluster import Slot, slots_of

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

MAX_RESTARTS = 3
"""Times that the worker of one slot is started again while its node lives."""

LOOK_S = 5.0
"""Between two looks for nodes that came or went."""

TELL_S = 1.0
"""Between two questions about progress."""

REPLACEMENT_S = 60.0
"""How long a job without any worker waits for a node to come."""


class RayWorker:
    """The actor: a `Hand` that answers about its progress from a second thread."""

    def __init__(self, name: str, post: Post) -> None:
        settle_in()
        self._hand = Hand(name, post)
        self._at: Moved | None = None

    def hello(self) -> Ready | Unfit:
        """Read the source and build the encoders."""
        return self._hand.hello()

    def embed(self, task: Task) -> Finished:
        """Embed a slide."""

        def note(slide_id: str, done: int, total: int) -> None:
            self._at = Moved(slide_id, done, total)

        return self._hand.embed(task, note)

    def where(self) -> Moved | None:
        """How far the slide in work is."""
        return self._at


class RayCrew:
    """Actors of a cluster; a `Crew`. Nodes that join later get workers too.

    Parameters
    ----------
    ray
        Connected.
    """

    def __init__(self, ray: ModuleType, post: Post) -> None:
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

    def send(self, worker: str, task: Task) -> None:
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
        if isinstance(event, Ready | Unfit):
            self._starting.discard(worker)
            self._alone_since = None
        if isinstance(event, Finished):
            self._at_work.discard(worker)
        return [] if event is None else [event]

    def _bury(self, worker: str, error: Exception) -> Died:
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
        return Died(worker, gone + _first_line(error))

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors.values():
            self._ray.kill(actor)


def _first_line(error: Exception) -> str:
    """What an error says; of one that a worker raised, that error and not where it came from."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
