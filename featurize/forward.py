"""One batch through one encoder: on the device it was put on, in as many threads as the plan says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..store.arrays import Floats, Pixels
from ..store.limits import usable_cores
from .outputs import ViewField
from .patches.field import PatchField
from .patches.resampling import resample_regions

if TYPE_CHECKING:
    from .backbones.encoder import Encoder


class Uploader:
    """Moves batches to a device and results back, without the device waiting for either.

    Copies of batch i + 1 and of the results of batch i overlap the forward pass if the caller takes results one batch
    late::

        waiting = None
        for pixels in batches:
            result = uploader.download(encoder.encode(uploader.upload(pixels).permute(0, 3, 1, 2)))
            if waiting is not None:
                write(waiting())
            waiting = result

    Pinned memory comes from torch's own allocator, which reuses a block only after the copies from or to it are done:
    two or three blocks serve a whole run.

    Parameters
    ----------
    device
        "cpu", "cuda" or "cuda:1"; the encoder computes on its current stream.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._streams = None
        if self.device.type == "cuda":
            # One each way: a copy back waits for its forward pass, and must not hold up the next batch's copy.
            self._streams = _new_stream(self.device), _new_stream(self.device)

    def upload(self, batch: Pixels) -> Tensor:
        """Copy a batch to the device.

        Parameters
        ----------
        batch
            uint8 of any shape, writable; on a GPU it may be changed as soon as this returns, on a CPU its memory is
            shared.

        Returns
        -------
        Tensor
            The same on the device. Work that the caller's current stream does with it from now on waits for the copy;
            the caller does not.
        """
        if self._streams is None:
            return torch.from_numpy(batch)
        pinned = torch.from_numpy(batch).pin_memory()
        computing, copying = torch.cuda.current_stream(self.device), self._streams[0]
        with torch.cuda.stream(copying):
            moved = pinned.to(self.device, non_blocking=True)
        computing.wait_stream(copying)
        moved.record_stream(computing)  # allocated for the copying stream: not to be reused before it was computed with
        return moved

    def download(self, result: Tensor) -> Callable[[], Floats]:
        """Start to copy a result back.

        Returns
        -------
        Callable
            Called, it waits for this result alone, and gives it as an array.
        """
        if self._streams is None:
            return result.numpy
        returning = self._streams[1]
        returning.wait_stream(torch.cuda.current_stream(self.device))
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        with torch.cuda.stream(returning):
            host.copy_(result, non_blocking=True)
            done = returning.record_event()
        result.record_stream(returning)

        def wait() -> Floats:
            done.synchronize()
            return np.asarray(host.numpy())

        return wait


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


CORES = usable_cores()
"""Cores that this process may use."""

LARGEST_REGION = 3
"""Side of a region, over that of its patch, up to which it is resampled on a GPU: nine times the bytes to move."""


class Device:
    """Where a pass computes: patches go there as bytes, and are resampled there if it is a GPU.

    Parameters
    ----------
    name
        "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, name: str) -> None:
        self.uploader = Uploader(name)

    def resamples(self, field: PatchField) -> bool:
        """Whether patches of a field are resampled there: on a GPU, unless their regions are so large to move."""
        return self.uploader.device.type != "cpu" and field.region_px <= LARGEST_REGION * field.side_px

    def patches(self, pixels: Pixels, corners_px: Floats, field: ViewField) -> Tensor:
        """uint8 (b * tiles, 3, side, side) on the device, of patches or of regions (b, h, w, 3)."""
        import torch

        there = self.uploader.upload(pixels)
        if self.resamples(field.field):
            side_px, out_px = field.field.side_level_px, field.field.side_px
            there = resample_regions(there, torch.from_numpy(corners_px), side_px=side_px, out_px=out_px)
        else:
            there = there.permute(0, 3, 1, 2)  # (b, h, w, 3) -> (b, 3, h, w)
        return _tiles_of(there, field)


def takes_all_cores(encoder: Encoder, threads: int) -> bool:
    """Whether a forward pass leaves no core to anything else."""
    return encoder.device.type == "cpu" and _threads_wanted(encoder, threads) >= CORES


def _threads_wanted(encoder: Encoder, threads: int) -> int:
    """One for embedded encoders: many small operations, which two contending threads make five times slower."""
    return 1 if encoder.record.loader == "embedded" else threads


@contextmanager
def _threads_of(encoder: Encoder, threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    wanted = _threads_wanted(encoder, threads)
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)


def _tiles_of(patches: Tensor, field: ViewField) -> Tensor:
    """Sub-tiles of patches (b, 3, side, side), row by row: (b * tiles * tiles, 3, tile, tile)."""
    import torch

    tiles, stride, side = field.view.tiles, field.view.side_px, field.tile_px
    if tiles == 1:
        return patches
    cut = [
        patches[..., row * stride : row * stride + side, column * stride : column * stride + side]
        for row in range(tiles)
        for column in range(tiles)
    ]
    return torch.stack(cut, dim=1).flatten(0, 1)


def forward(
    encoder: Encoder, patches: Tensor, *, grids: Sequence[tuple[int, int]], threads: int, batch: int
) -> dict[tuple[int, int] | None, Tensor]:
    """Embed a batch once.

    Parameters
    ----------
    patches
        uint8 (b, 3, side, side).
    grids
        Token grids wanted beside the vectors.
    threads
        Of torch, for networks on the CPU.
    batch
        Images per pass of the network; sub-tiles of a batch of patches are more than that.

    Returns
    -------
    dict
        Vectors (b, dim) under None; tokens (b, rows * columns, d) under their grid.
    """
    import torch

    with _threads_of(encoder, threads):
        parts = torch.split(patches, batch)
        if not grids:
            return {None: _joined([encoder.encode(part) for part in parts])}
        both = [encoder.encode_with_grids(part, grids=grids) for part in parts]
        found: dict[tuple[int, int] | None, Tensor] = {None: _joined([vectors for vectors, _ in both])}
        return found | {grid: _joined([tokens[grid] for _, tokens in both]) for grid in grids}


def _joined(parts: list[Tensor]) -> Tensor:
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts)
