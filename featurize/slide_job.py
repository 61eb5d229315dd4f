"""One slide into the store: looked at, deposited and read ahead in one step, embedded in another."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.lock import slide_lock
from ..store.naming import SPOTS
from ..store.one_encoder import KeyFingerprints
from ..store.schema import qc_path
from .claim import claim
from .cohort import Sample
from .deposit import deposit_counts, deposit_patches, deposit_slide
from .embedding import OpenPass, open_pass, run_pass
from .job_plan import Plan, group_passes, open_files
from .options import FeaturizeOptions, Progress, SlideDone
from .qc import draw_qc, write_qc
from .readers import Readers
from .slide import open_slide
from .slide_look import Look, look_at
from .targets import check_fields, headers_of, missing_targets

if TYPE_CHECKING:
    from .backbones.build import Encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
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


def prepare_slide(sample: Sample, run: Run) -> PreparedSlide:
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


def embed_slide(prepared: PreparedSlide, run: Run, *, progress: Progress) -> SlideDone:
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
