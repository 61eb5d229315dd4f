"""From regions to patches: PIL's antialiased bilinear filter over exact, fractional fields, one by one or in batches.

Both ways give the same patches. PIL is about ten times faster on a CPU; the batched way is for a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...store.arrays import Floats, Pixels
from ...store.errors import SlideError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 32
"""Patches resampled at a time, so that weights and intermediate pixels of a large batch do not fill the GPU."""

BITS = 22
"""PIL's weights are whole multiples of 2**-22."""

LOW_BITS = 11
"""Weights are multiplied in two halves: sums of 11 bits times 8 bits of pixels are whole numbers that fp32 holds."""


def resample_pil(region: Pixels, corner_px: Floats, *, side_px: float, out_px: int) -> Pixels:
    """Cut one square field out of a region and bring it to its size.

    Parameters
    ----------
    region
        uint8 (h, w, 3).
    corner_px
        (2,) the field's upper left corner inside the region, x then y, fractional.
    side_px
        Side of the field in pixels of the region.
    out_px
        Side of the patch.

    Returns
    -------
    Pixels
        uint8 (out_px, out_px, 3), the bytes of `PIL.Image.resize(..., BILINEAR, box=...)`. Read only: a view of the
        region where the field is made of whole pixels of the right size, else PIL's own buffer.

    Raises
    ------
    SlideError
        If the field reaches outside its region.
    """
    from PIL import Image

    x, y = (float(value) for value in corner_px)
    start, stop = np.array([[x, y], [x + side_px, y + side_px]], dtype=np.float32)  # as PIL holds a box
    if (start < 0).any() or (stop > region.shape[1::-1]).any():
        msg = f"field of {side_px} px at ({x}, {y}) reaches outside its region of {region.shape[1]} x {region.shape[0]}"
        raise SlideError(msg)
    if (stop - start == out_px).all() and (start % 1 == 0).all():
        left, top = start.astype(int)
        return region[top : top + out_px, left : left + out_px]
    box = (x, y, x + side_px, y + side_px)
    return np.asarray(Image.fromarray(region).resize((out_px, out_px), Image.Resampling.BILINEAR, box=box))


def resample_regions(regions: Tensor, corners_px: Tensor, *, side_px: float, out_px: int) -> Tensor:
    """Cut one square field out of each region and bring all to one size, on the regions' device.

    The triangle filter of Pillow's `Resample.c` as two batched matrix products, along x first, each rounded half up to
    bytes; weights are rounded to multiples of 2**-22 as there, and multiplied without any rounding error.

    Out of square regions the result is that of `resample_pil`, byte for byte but where a weight lies on the border of
    two multiples (1 in 6,000 random fields, 0.02 % of its values, by 1 grey level). Where a region is higher than
    wide, Pillow 13 may filter along y first, and up to a quarter of the values differ by 1 grey level.

    Parameters
    ----------
    regions
        uint8 (b, h, w, 3).
    corners_px
        float64 (b, 2), each field's upper left corner inside its region, x then y; best on the CPU, where checking
        them waits for nothing.
    side_px
        Side of the fields in pixels of the regions.
    out_px
        Side of the patches.

    Returns
    -------
    Tensor
        uint8 (b, 3, out_px, out_px), a view of channels-last data.

    Raises
    ------
    SlideError
        If a field reaches outside its region.
    """
    import torch

    _, height, width, _ = regions.shape
    start = corners_px.float()  # PIL holds a box in single precision
    stop = (corners_px + side_px).float()
    limit = torch.tensor([width, height], device=stop.device)
    if bool(((start < 0) | (stop > limit)).any()):
        msg = f"fields of {side_px} px reach outside their regions of {width} x {height} px: read larger regions"
        raise SlideError(msg)
    # A blocking copy would wait for the forward pass that is under way.
    start, stop = (edge.to(regions.device, non_blocking=True) for edge in (start, stop))
    out = torch.empty(len(regions), out_px, out_px, 3, dtype=torch.uint8, device=regions.device)
    for first in range(0, len(regions), CHUNK):
        part = slice(first, first + CHUNK)
        planes = regions[part].permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        b = len(planes)
        rows = _filtered(planes.view(b, 3 * height, width), start[part, 0], stop[part, 0], out_px)
        columns = rows.view(b, out_px * 3, height)  # (b, x, c * y) -> (b, x * c, y)
        out[part] = _filtered(columns, start[part, 1], stop[part, 1], out_px).view(b, out_px, out_px, 3)
    return out.permute(0, 3, 1, 2)


def _filtered(lines: Tensor, start: Tensor, stop: Tensor, out_px: int) -> Tensor:
    """Resample lines (b, m, n) of 0..255 between start and stop, both (b,): (b, out_px, m), whole numbers."""
    import torch

    weights = _weights(start, stop, size=lines.shape[-1], out_px=out_px)
    high = weights.div(2**LOW_BITS, rounding_mode="floor")
    halves = torch.cat([high, weights - high * 2**LOW_BITS], dim=1).float()  # (b, 2 * out_px, n)
    upper, lower = torch.bmm(halves, lines.transpose(1, 2)).to(torch.int32).chunk(2, dim=1)  # (b, out_px, m) each
    return (((upper << LOW_BITS) + lower + (1 << (BITS - 1))) >> BITS).clamp_(0, 255).float()


def _weights(start: Tensor, stop: Tensor, *, size: int, out_px: int) -> Tensor:
    """Weights of `size` pixels for each of `out_px` pixels between start and stop: float64 (b, out_px, size), whole."""
    import torch

    scale = ((stop - start).double() / out_px)[:, None]  # (b, 1)
    reach = scale.clamp(min=1.0)
    center = start.double()[:, None] + (torch.arange(out_px, device=start.device) + 0.5) * scale  # (b, out_px)
    first = (center - reach + 0.5).clamp(min=0).floor()[..., None]  # (b, out_px, 1)
    end = (center + reach + 0.5).clamp(max=size).floor()[..., None]
    pixel = torch.arange(size, device=start.device)
    # In PIL's order of operations, so that weights between two multiples are rounded to the same one.
    distance = (pixel - center[..., None] + 0.5).abs() * (1 / reach[..., None])  # (b, out_px, size)
    triangle = (1 - distance).clamp(min=0) * ((pixel >= first) & (pixel < end))
    weights = triangle * (1 / triangle.sum(dim=-1, keepdim=True))
    return torch.floor(weights * 2**BITS + 0.5)
