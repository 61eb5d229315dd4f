"""Workers in other processes: what they are told, what they answer, and what a scheduler needs of them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...store.errors import CohortError, TissuaryError, plain_text
from ..options import FeaturizeOptions, Progress
from ..patches.readers import StageReport

if TYPE_CHECKING:
    from ..backbones.encoder import Encoder
    from ..one_slide import SlideOutcome, SlideWorker
    from ..patches.readers import Readers
    from ..sources.sample import Sample


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told once. It reads the source itself: only names of slides go to and fro.

    Attributes
    ----------
    source, root
        Absolute: a worker may run in another folder.
    options
        With the device, threads and readers of this worker.
    images
        By slide, the absolute path and the bytes of its image where the job was begun; a worker that sees another
        image under a slide's name refuses it. What is not listed is not compared.
    """

    source: str
    format: str
    root: Path
    options: FeaturizeOptions
    images: dict[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideTask:
    """A slide to embed, and the one to open meanwhile.

    Attributes
    ----------
    batch, threads
        Of the plan that all workers of a run follow.
    """

    slide_id: str
    following: str | None
    batch: int
    threads: int


@dataclass(frozen=True)
class Ready:
    """A worker has its encoders, and would take these batches and threads."""

    worker: str
    device: str
    batch: int
    threads: int
    licences: dict[str, str]


@dataclass(frozen=True)
class StartFailed:
    """A worker cannot begin: no weights, no source, no such device."""

    worker: str
    error: TissuaryError


@dataclass(frozen=True)
class SlideProgress:
    """Patches done of a slide."""

    slide_id: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A slide came to its end, well or not; `stages` is all that the worker did so far."""

    worker: str
    outcome: SlideOutcome
    stages: StageReport


@dataclass(frozen=True)
class WorkerLost:
    """A worker, or its node, is gone."""

    worker: str
    cause: str


Event = Ready | StartFailed | SlideProgress | Finished | WorkerLost


class WorkerPool(Protocol):
    """Workers, wherever they are."""

    def send(self, worker: str, task: SlideTask) -> None:
        """Give a worker that is ready, or has finished, a slide."""
        ...

    def wait(self, timeout_s: float) -> list[Event]:
        """What happened, as soon as anything has."""
        ...

    def starting(self) -> int:
        """Workers that are on their way."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class Worker:
    """A worker's own side: the source, the encoders, the readers, and one slide after another."""

    def __init__(self, name: str, post: WorkerConfig) -> None:
        self._name, self._post = name, post
        self._worker: SlideWorker | None = None

    def hello(self) -> Ready | StartFailed:
        """Read the source, build the encoders, and see that the store's keys are theirs."""
        from ...store.files.same_encoder import KeyFingerprints
        from ..one_slide import UNFORESEEN
        from ..outputs import check_keys
        from ..setup import plan_of

        try:
            plan = plan_of(self._post.options, self._encoders)
            check_keys(KeyFingerprints(self._post.root), self._post.options, self._encoders)
            self._samples  # noqa: B018  (a source that is not seen from here is told now)
        except TissuaryError as error:
            return self._unfit(error)
        except (*UNFORESEEN, ImportError) as error:
            return self._unfit(CohortError(f"{type(error).__name__}: {plain_text(error)}"))
        licences = {name: encoder.record.terms for name, encoder in self._encoders.items()}
        return Ready(self._name, plan.device, plan.batch, plan.threads, licences)

    def embed(self, task: SlideTask, progress: Progress) -> Finished:
        """Embed a slide."""
        from ..one_slide import SlideOutcome

        worker = self._worker = self._worker or self._begun(task)
        sample = self._sample(task.slide_id)
        if isinstance(sample, CohortError):
            outcome = SlideOutcome(task.slide_id, error=sample)
        else:
            following = None if task.following is None else self._sample(task.following)
            if isinstance(following, CohortError):  # it is told when its turn comes
                following = None
            outcome = worker.embed(sample, following=following, progress=progress)
        return Finished(self._name, outcome, self._readers.stages.report(readers=self._readers.threads))

    def _unfit(self, error: TissuaryError) -> StartFailed:
        error.add_note(f"It came from worker {self._name} on {socket.gethostname()}.")
        return StartFailed(self._name, error)

    def _sample(self, slide_id: str) -> Sample | CohortError:
        """A slide, if it is from here the one that is meant."""
        from .shards import image_bytes

        sample = self._samples.get(slide_id)
        if sample is None:
            seen = "no such slide"
        else:
            here = str(sample.image.absolute()), image_bytes(sample.image)
            meant = self._post.images.get(slide_id, here)
            if here == meant:
                return sample
            seen = f"{here[0]} of {here[1]} bytes where {meant[0]} of {meant[1]} bytes is meant"
        return CohortError(
            f"slide {slide_id}: worker {self._name} on {socket.gethostname()} sees {seen} in {self._post.source}; "
            "let every machine see the same files under the same paths"
        )

    def _begun(self, task: SlideTask) -> SlideWorker:
        from ..one_slide import FeaturizeRun, SlideWorker
        from ..setup import plan_of

        options = replace(self._post.options, batch=task.batch, threads=task.threads)
        return SlideWorker(
            FeaturizeRun(self._post.root, options, self._encoders, plan_of(options, self._encoders), self._readers)
        )

    @cached_property
    def _samples(self) -> dict[str, Sample]:
        from ..sources.load import load_cohort

        cohort = load_cohort(Path(self._post.source), format=self._post.format, pitch_um=self._post.options.pitch_um)
        return {one.slide_id: one for one in cohort.samples}

    @cached_property
    def _encoders(self) -> dict[str, Encoder]:
        from ..setup import build_encoders

        return build_encoders(self._post.options)

    @cached_property
    def _readers(self) -> Readers:
        from ..patches.readers import Readers

        return Readers(self._post.options.readers)


def settle_in() -> None:
    """Make a process that is a worker's own ready for it, before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait by spinning take the readers' cores
