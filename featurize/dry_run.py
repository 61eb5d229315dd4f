"""What a featurization would do: slides, patches, files, and how long and how large, from a short calibration."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..store.errors import TissuaryError
from .ingest import slide_record
from .options import FeaturizeOptions, Progress
from .outputs import ViewField, Wanted, check_fields, check_keys, missing_targets
from .patches.read_blocks import visiting_order
from .patches.readers import Readers
from .patches.stream import ReadPlan, open_stream
from .slide_plan import Look, look_at
from .slides.open import open_slide
from .slides.slide import Slide

if TYPE_CHECKING:
    from .backbones.encoder import Encoder
    from .one_slide import FeaturizeRun
    from .sources.sample import Sample

log = logging.getLogger(__name__)

CALIBRATION_BATCHES = 3
"""Batches that are read and embedded for the estimate, after one to warm up."""

FILE_BYTES = 12_000
"""What a feature file takes beside its rows."""


@dataclass(frozen=True)
class SlideEstimate:
    """What a run would do for one slide.

    Attributes
    ----------
    patches
        Number of patches by patch set.
    files
        Feature files that are still missing.
    bytes
        Their size.
    seconds
        Time to embed them; 0 where nothing is missing.
    """

    slide_id: str
    mpp: float
    mpp_source: str
    patches: dict[str, int]
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes
    ----------
    refused
        (slide, cause) of slides that could not be done.
    left_out
        (name, reason) of the files and folders of the source that are no slide.
    patches_per_second
        Forward rate by `backbone@view`, as calibrated.
    """

    source: str
    slides: tuple[SlideEstimate, ...]
    refused: tuple[tuple[str, str], ...]
    batch: int
    device: str
    readers: int
    patches_per_second: dict[str, float]
    bytes: int
    seconds: float
    left_out: tuple[tuple[str, str], ...] = ()


def dry_run(
    source: str | Path,
    store: str | Path,
    *,
    options: FeaturizeOptions | None = None,
    format: str = "auto",
    progress: Progress | None = None,
) -> DryRun:
    """Plan a featurization and estimate its time and size; nothing is written.

    Parameters
    ----------
    source, store, options, format
        As those of `featurize`.

    Raises
    ------
    TissuaryError
        If the cohort or a backbone cannot be read at all, or the store holds features of another encoder under a key
        that would be written.
    """
    from .one_slide import FeaturizeRun, isolated
    from .setup import build_encoders, cohort_of, plan_of

    options = options or FeaturizeOptions()
    cohort = cohort_of(source, options, format=format)
    encoders = build_encoders(options)
    slides: list[SlideEstimate] = []
    refused: list[tuple[str, TissuaryError]] = []
    cost = Cost()
    with Readers(options.readers) as readers:
        run = FeaturizeRun(Path(store), options, encoders, plan_of(options, encoders), readers)
        check_keys(run.keys, options, encoders)
        for number, sample in enumerate(cohort.samples):
            with isolated(sample, refused):
                slides.append(_estimate(sample, run, cost))
            if progress is not None:
                progress("slides", number + 1, len(cohort.samples))
    return DryRun(
        source=cohort.source,
        slides=tuple(slides),
        refused=(*cohort.refused, *((slide_id, str(cause)) for slide_id, cause in refused)),
        batch=run.plan.batch,
        device=run.plan.device,
        readers=options.readers,
        patches_per_second=cost.rates(),
        bytes=sum(slide.bytes for slide in slides),
        seconds=sum(slide.seconds for slide in slides),
        left_out=cohort.left_out,
    )


class Cost:
    """Seconds per patch of reading a field and of each forward pass, measured on the first slide that has them."""

    def __init__(self) -> None:
        self._reading: dict[str, float] = {}
        self._forward: dict[tuple[str, str], float] = {}

    def seconds(self, look: Look, wanted: Sequence[Wanted], slide: Slide, run: FeaturizeRun) -> float:
        """Seconds per patch for what is wanted."""
        total = 0.0
        for field, targets in wanted:
            encoders = {id(target.encoder): target.encoder for target in targets}
            for encoder in encoders.values():
                at = (encoder.record.key, f"{field.view.name}:{field.tile_px}")
                if at not in self._forward or at[1] not in self._reading:
                    self._measure(look, field, encoder, slide, run)
                total += self._forward[at]
            reading = self._reading[f"{field.view.name}:{field.tile_px}"]
            # On the CPU readers and model share the cores; beside a GPU reading hides behind the forward pass.
            total += reading if run.plan.device == "cpu" else max(0.0, reading - total)
        return total

    def _measure(self, look: Look, field: ViewField, encoder: Encoder, slide: Slide, run: FeaturizeRun) -> None:
        from .forward import Device, forward

        place = next(iter(look.sets.values())).patches
        order = visiting_order(place.center_px, block_px=run.plan.block_px)
        batch = run.plan.batch
        count = min(len(order), batch * (1 + CALIBRATION_BATCHES))
        device = Device(str(encoder.device))
        visit = ReadPlan(place.center_px, order[:count], run.plan.block_px, batch)
        resample = [not device.resamples(field.field)]
        stream = open_stream(slide, place, visit, [field.field], readers=run.readers, resample=resample)
        reading, computing = [], []
        last = time.perf_counter()
        for position, (pixels,) in stream:  # to its end, so that no job is left
            there = time.perf_counter()
            patches = device.patches(pixels, stream.corners(0, position, len(pixels)), field)
            device.uploader.download(forward(encoder, patches, grids=(), threads=run.plan.threads, batch=batch)[None])()
            done = time.perf_counter()
            reading.append((there - last) / len(pixels))
            computing.append((done - there) / len(pixels))
            last = done
        start = 1 if len(reading) > 1 else 0  # the first batch warms up
        name = f"{field.view.name}:{field.tile_px}"
        self._reading[name] = float(np.mean(reading[start:]))
        self._forward[encoder.record.key, name] = float(np.mean(computing[start:]))

    def rates(self) -> dict[str, float]:
        """Patches per second by `backbone@view`."""
        return {f"{key}@{name.split(':')[0]}": 1 / seconds for (key, name), seconds in self._forward.items()}


def _estimate(sample: Sample, run: FeaturizeRun, cost: Cost) -> SlideEstimate:
    with open_slide(sample.image) as slide:
        look = look_at(sample, slide, run.options, encoders=run.encoders)
        check_fields(run.keys, look.fields, run.encoders, slide_id=sample.slide_id, patch_sets=look.sets)
        record = slide_record(sample, slide, look.scale)
        files = size = 0
        seconds = 0.0
        for name, patch_set in look.sets.items():
            patches = patch_set.patches
            wanted = missing_targets(
                look.fields, patches, root=run.root, slide=record, patch_set=name, encoders=run.encoders
            )
            targets = [target for _, found in wanted for target in found]
            files += len(targets)
            size += sum(prod(target.shape) * 2 + FILE_BYTES for target in targets)
            if wanted:
                seconds += len(patches) * cost.seconds(look, wanted, slide, run)
    counts = {name: len(one.patches) for name, one in look.sets.items()}
    return SlideEstimate(sample.slide_id, look.scale.mpp, look.scale.source, counts, files, size, seconds)
