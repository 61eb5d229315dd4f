"""Pixels through encoders into feature files: each field is read once per patch, whoever wants it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..store.arrays import Floats, Ints, Pixels
from ..store.files.patches import Patches
from ..store.files.writer import FeatureJob
from .forward import Device, forward, takes_all_cores
from .job_plan import Pass, Plan
from .outputs import FeatureOutput, ViewField
from .patches.readers import FORWARD, WRITE, Readers, Stages
from .patches.stream import PatchStream, PrecutStream, ReadPlan, open_stream
from .patches.tiles import TileSource

if TYPE_CHECKING:
    from .backbones.encoder import Encoder

Result = Callable[[], Floats]
"""Gives an array once it is back from the device."""


@dataclass(frozen=True)
class OpenPass:
    """A pass whose files are open and whose pixels can be read ahead.

    Attributes
    ----------
    order
        (n,) row at each visiting position.
    start
        Position to go on from.
    sinks
        For each field, who takes its patches: an encoder and its files.
    """

    stream: PatchStream | PrecutStream
    device: Device
    order: Ints
    start: int
    plan: Plan
    sinks: tuple[tuple[ViewField, tuple[tuple[Encoder, tuple[Sink, ...]], ...]], ...]

    def close(self) -> None:
        """Stop reading; unfinished files stay for a later run."""
        self.stream.close()
        for _, takers in self.sinks:
            for _, files in takers:
                for sink in files:
                    sink.job.close()


class Sink:
    """Collects the rows of one file until a block is whole."""

    def __init__(self, job: FeatureJob, target: FeatureOutput, block_rows: int) -> None:
        self.job = job
        self.target = target
        self._block = np.empty((min(block_rows, target.shape[0]), *target.shape[1:]), dtype=np.float32)
        self._filled = 0

    def take(self, rows: Floats) -> None:
        """Add the rows of a batch."""
        self._block[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def write(self, rows: Ints) -> None:
        """Write what was collected, as the given rows of the file."""
        self.job.write(rows, self._block[: self._filled])
        self._filled = 0


def open_pass(slide: TileSource, patches: Patches, one: Pass, *, readers: Readers) -> OpenPass:
    """Prepare to read from where the files of a pass stand."""
    for file in (file for _, files in one.fields for file in files):
        file.job.rewind(one.blocks_done)
    start = min(one.blocks_done * one.plan.block_rows, len(one.order))
    visit = ReadPlan(patches.center_px, one.order, one.plan.block_px, one.plan.batch, start)
    device = Device(str(one.fields[0][1][0].target.encoder.device))
    fields = [field.field for field, _ in one.fields]
    resample = [not device.resamples(f) for f in fields]
    stream = open_stream(slide, patches, visit, fields, readers=readers, resample=resample)
    sinks = tuple(
        (field, _by_encoder([Sink(file.job, file.target, one.plan.block_rows) for file in files]))
        for field, files in one.fields
    )
    return OpenPass(stream, device, one.order, start, one.plan, sinks)


def _by_encoder(sinks: list[Sink]) -> tuple[tuple[Encoder, tuple[Sink, ...]], ...]:
    encoders = {id(sink.target.encoder): sink.target.encoder for sink in sinks}
    return tuple((e, tuple(sink for sink in sinks if sink.target.encoder is e)) for e in encoders.values())


def run_pass(opened: OpenPass, *, readers: Readers, progress: Callable[[int], None]) -> None:
    """Embed all patches that are left, and publish the files.

    The results of a batch are taken when the next one is under way, so that a GPU never waits for them.

    Parameters
    ----------
    progress
        Called with the number of patches done.
    """
    writer = _BlockWriter(opened, readers.stages)
    late: list[tuple[int, list[tuple[Sink, Result]]]] = []
    try:
        for position, pixels in opened.stream:
            count = len(pixels[0])
            with readers.stages.timed(FORWARD, count):
                late.append((position + count, _forward_all(opened, position, pixels, readers=readers)))
                finished = [late.pop(0)] if len(late) > 1 else []
                for _, results in finished:
                    _take(results)
            for done, _ in finished:
                writer.advance(done)
                progress(done)
        for done, results in late:
            with readers.stages.timed(FORWARD, 0):
                _take(results)
            writer.advance(done)
            progress(done)
        writer.finish()
    finally:
        opened.close()


class _BlockWriter:
    """Writes all files of a pass whenever a block is whole."""

    def __init__(self, opened: OpenPass, stages: Stages) -> None:
        self._opened, self._stages = opened, stages
        self._files = [sink for _, takers in opened.sinks for _, sinks in takers for sink in sinks]
        self._begun = opened.start

    def advance(self, done: int) -> None:
        """Rows up to the position `done` were taken."""
        opened = self._opened
        if done - self._begun == opened.plan.block_rows or done == len(opened.order):
            with self._stages.timed(WRITE, (done - self._begun) * len(self._files)):
                for sink in self._files:
                    sink.write(opened.order[self._begun : done])
            self._begun = done

    def finish(self) -> None:
        """Publish the files."""
        with self._stages.timed(WRITE, 0):
            for sink in self._files:
                sink.job.finish()


def _take(results: list[tuple[Sink, Result]]) -> None:
    for sink, result in results:
        sink.take(result().reshape(-1, *sink.target.shape[1:]))


def _forward_all(
    opened: OpenPass, position: int, pixels: list[Pixels], *, readers: Readers
) -> list[tuple[Sink, Result]]:
    """Send a batch through all encoders at all fields."""
    results: list[tuple[Sink, Result]] = []
    for number, (field, takers) in enumerate(opened.sinks):
        corners = opened.stream.corners(number, position, len(pixels[number]))
        patches = opened.device.patches(pixels[number], corners, field)
        for encoder, sinks in takers:
            grids = [sink.target.grid for sink in sinks if sink.target.grid is not None]
            plan = opened.plan
            with readers.held() if takes_all_cores(encoder, plan.threads) else nullcontext():
                found = forward(encoder, patches, grids=grids, threads=plan.threads, batch=plan.batch)
            results += [(sink, opened.device.uploader.download(found[sink.target.grid])) for sink in sinks]
    return results
