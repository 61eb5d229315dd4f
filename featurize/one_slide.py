"""One slide into the store: looked at, deposited and read ahead in one step, embedded in another."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..store.errors import CohortError, TissuaryError, plain_text
from ..store.files.atomic import remove_resumable
from ..store.files.lock import check_claim, claim, slide_lock
from ..store.files.same_encoder import KeyFingerprints
from ..store.files.schema import qc_path
from ..store.naming import SPOTS
from .ingest import deposit_counts, deposit_patches, deposit_slide
from .job_plan import Plan, group_passes, open_files
from .options import FeaturizeOptions, Progress, SlideDone
from .outputs import check_fields, headers_of, missing_targets
from .passes import OpenPass, Sink, open_pass, run_pass
from .patches.readers import Readers
from .slide_plan import Look, look_at
from .slides.open import open_slide
from .sources.sample import Sample
from .tissue.qc import draw_qc, write_qc

if TYPE_CHECKING:
    from .backbones.encoder import Encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeaturizeRun:
    """What all slides of a run share.

    Attributes
    ----------
    root
        Folder of the store.
    encoders
        By the name their features are stored under.
    """

    root: Path
    options: FeaturizeOptions
    encoders: dict[str, Encoder]
    plan: Plan
    readers: Readers

    @cached_property
    def keys(self) -> KeyFingerprints:
        """Fingerprints that the store's feature keys hold."""
        return KeyFingerprints(self.root)


@dataclass
class PreparedSlide:
    """A slide whose image is open and locked, whose geometry and counts are in the store.

    Attributes
    ----------
    passes
        Those that embed its patches; the first has begun to read.
    picture
        The job that draws where was looked.
    """

    sample: Sample
    look: Look
    passes: list[OpenPass] = field(default_factory=list)
    written: int = 0
    picture: Future[None] | None = None
    resources: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Let go of image, lock and files."""
        self.resources.close()


def prepare_slide(sample: Sample, run: FeaturizeRun) -> PreparedSlide:
    """Look at a slide, deposit what is known of it, and begin to read; what is there and agrees is left alone.

    Raises
    ------
    TissuaryError
        If scale, spots, counts or pixels cannot be used, the store holds something else under the same name, or
        another process writes this slide.
    """
    with ExitStack() as stack:
        slide = stack.enter_context(open_slide(sample.image))
        look = look_at(sample, slide, run.options, encoders=run.encoders)
        check_fields(run.keys, look.fields, run.encoders, slide_id=sample.slide_id, patch_sets=look.sets)
        stack.enter_context(claim(run.root, sample.slide_id))  # let go of after the lock
        stack.enter_context(slide_lock(run.root, sample.slide_id))
        record = deposit_slide(run.root, sample, slide, scale=look.scale, thumbnail=look.thumbnail, tissue=look.tissue)
        prepared = PreparedSlide(sample, look)
        new = False
        for name, patch_set in look.sets.items():
            patches = patch_set.patches
            new |= deposit_patches(run.root, sample.slide_id, patches, name=name)
            if name == SPOTS and look.measured is not None:
                deposit_counts(run.root, sample.slide_id, look.measured, patches)
            wanted = missing_targets(
                look.fields, patches, root=run.root, slide=record, patch_set=name, encoders=run.encoders
            )
            with run.keys.adding(headers_of(wanted), patches=name):
                for target in (target for _, targets in wanted for target in targets):
                    target.path.unlink(missing_ok=True)  # a damaged file, or none
                    prepared.written += 1
                files = open_files(wanted, patches.center_px, run.plan)
            for file in files:
                stack.callback(file.job.close)
            for one in group_passes(files):
                opened = open_pass(slide, patches, one, readers=run.readers)
                stack.callback(opened.close)
                prepared.passes.append(opened)
        if prepared.passes:
            prepared.passes[0].stream.start()
        size_px = (slide.width, slide.height)
        if new or not qc_path(run.root, sample.slide_id).exists():
            prepared.picture = run.readers.submit(_picture, sample, look, run.root, size_px=size_px)
        prepared.resources = stack.pop_all()
    return prepared


def embed_slide(prepared: PreparedSlide, run: FeaturizeRun, *, progress: Progress) -> SlideDone:
    """Embed the patches of a prepared slide, and close it.

    Raises
    ------
    TissuaryError
        If pixels cannot be read, or a backbone gives NaN.
    """
    slide_id = prepared.sample.slide_id
    try:
        for opened in prepared.passes:

            def tell(done: int, total: int = len(opened.order)) -> None:
                progress(slide_id, done, total)

            if opened.start:
                log.info("slide %s: goes on at patch %d of %d", slide_id, opened.start, len(opened.order))
            run_pass(opened, readers=run.readers, progress=tell)
        if prepared.picture is not None:
            prepared.picture.result()
    finally:
        prepared.close()
    scale, resumed = prepared.look.scale, sum(opened.start for opened in prepared.passes)
    patches = sum(len(one.patches) for one in prepared.look.sets.values())
    return SlideDone(slide_id, patches, scale.mpp, scale.source, prepared.written, resumed)


def _picture(sample: Sample, look: Look, root: Path, *, size_px: tuple[int, int]) -> None:
    """Draw where was looked."""
    field_px = look.fields[0].view.fov_um / look.scale.mpp  # for spots, whose own size no source tells
    sets = {name: (one.patches.center_px, one.side_px or field_px) for name, one in look.sets.items()}
    picture = draw_qc(
        look.thumbnail, look.tissue, size_px=size_px, mpp=look.scale.mpp, sets=sets, slide_id=sample.slide_id
    )
    write_qc(qc_path(root, sample.slide_id), picture)


_SAID = ("out of memory", "ALLOC_FAILED", "MemoryAllocation", "DefaultCPUAllocator: ")
"""What torch, cuBLAS, cuDNN and the CPU's allocator say as plain `RuntimeError`."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in _SAID)


def plan_in_half(passes: Sequence[OpenPass], today: Plan) -> Plan | None:
    """The plan with half the batch of the passes that did not fit; None where that was one patch."""
    failed = max((one.plan.batch for one in passes), default=today.batch)
    batch = min(today.batch, failed // 2)
    return replace(today, batch=batch) if batch else None


def sinks_of(passes: Sequence[OpenPass]) -> list[Sink]:
    """All files that the passes write."""
    return [sink for one in passes for _, takers in one.sinks for _, sinks in takers for sink in sinks]


def forget_unfinished(root: Path, slide_id: str, passes: Sequence[OpenPass]) -> None:
    """Remove the rows that the passes have so far, and give the device its memory back.

    A file has one plan from its first row to its last, and says so: rows of the former batch cannot stand beside rows
    of half of it.

    Raises
    ------
    SlideBusyError
        If another job was quicker to take the slide; what it has begun is left alone.
    StoreError
        If the slide is locked, or the store cannot be written.
    """
    import torch

    with claim(root, slide_id), slide_lock(root, slide_id):  # both were let go of with the pass that failed
        for sink in sinks_of(passes):
            remove_resumable(sink.target.path)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


UNFORESEEN = (OSError, MemoryError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What libraries raise on pixels and counts that nobody foresaw: it costs the slide, not the cohort."""


@dataclass(frozen=True)
class SlideOutcome:
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

    def __init__(self, run: FeaturizeRun) -> None:
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

    def embed(self, sample: Sample, *, following: Sample | None, progress: Progress) -> SlideOutcome:
        """Embed a slide; `following` is opened, looked at and read from meanwhile."""
        failed: list[tuple[str, TissuaryError]] = []
        done = None
        with isolated(sample, failed):
            done = self._embed(sample, following, progress=progress)
        return SlideOutcome(sample.slide_id, done, failed[0][1] if failed else None)

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
