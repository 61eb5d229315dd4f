"""One batch through one encoder: on the device it was put on, in as many threads as the plan says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..store.arrays import Floats, Pixels
from ..store.cores import usable_cores
from .device import Uploader
from .reading import Field
from .resampling import resample_regions
from .targets import ViewField

if TYPE_CHECKING:
    from torch import Tensor

    from .backbones.build import Encoder


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

    def resamples(self, field: Field) -> bool:
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
