"""Texture operators that respect the square's symmetries: a patch turned by 90 degrees or mirrored gives the same.

All act on maps (n, c, s, s) and look nowhere outside them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from .histogram import label_counts

PATTERNS = 10
"""Rotation-invariant local binary patterns: 0..8 brighter neighbours in one arc, and all others."""

_RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))

_PATTERN_STEP = 0.01


def pyramid(maps: Tensor, levels: int) -> list[Tensor]:
    """Box pyramid: the maps, and their 2 x 2 means over and over, `levels` in all."""
    built = [maps]
    for _ in range(levels - 1):
        built.append(halved(built[-1]))
    return built


def halved(maps: Tensor) -> Tensor:
    """Means of 2 x 2 blocks; sums of slices run twice as fast as a pooling operator."""
    rows = maps[..., 0::2, :] + maps[..., 1::2, :]  # (..., s / 2, s)
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def band(fine: Tensor, coarse: Tensor) -> Tensor:
    """What a level of the pyramid holds beyond the next coarser one (a Laplacian band; a nucleus is a blob in it)."""
    return fine - functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)


def gradients(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y, per 2 px, each (n, c, s - 2, s - 2)."""
    along_x = maps[..., 1:-1, 2:] - maps[..., 1:-1, :-2]
    along_y = maps[..., 2:, 1:-1] - maps[..., :-2, 1:-1]
    return along_x, along_y


def window_means(maps: Tensor) -> Tensor:
    """Means of windows of 4 x 4 px, of maps whose side is a multiple of 4 plus 2; the outermost pixels are left out."""
    return halved(halved(maps[..., 1:-1, 1:-1]))


def coherence(along_x: Tensor, along_y: Tensor) -> Tensor:
    """How far the gradients of a window share one direction, averaged over windows: (n, c).

    0: all directions alike, 1: one direction. From the structure tensor (Bigun and Granlund 1987, ICCV).
    """
    difference = window_means(along_x * along_x - along_y * along_y)
    product = window_means(along_x * along_y) * 2
    energy = window_means(along_x * along_x + along_y * along_y)
    return (torch.hypot(difference, product) / (energy + 4e-4)).mean(dim=(2, 3))


def local_patterns(maps: Tensor) -> Tensor:
    """Shares of the rotation-invariant uniform local binary patterns (Ojala et al. 2002, IEEE TPAMI 24:971).

    A neighbour is brighter where it exceeds the centre by `_PATTERN_STEP`: a flat field has no pattern.
    Steps fit in eight bits, which compare several times as fast; maps beyond -1.27..1.26 count as that.

    Returns
    -------
    Tensor
        (n, c, PATTERNS), each row of sum 1.
    """
    steps = maps.mul(1 / _PATTERN_STEP).clamp_(-127, 126).to(torch.int8)
    h, w = steps.shape[-2:]
    threshold = steps[..., 1:-1, 1:-1] + 1
    bits = [(steps[..., y : h - 2 + y, x : w - 2 + x] > threshold).view(torch.int8) for y, x in _RING]
    count, turns = bits[0].clone(), bits[0] ^ bits[7]
    for before, bit in pairwise(bits):
        count += bit
        turns += before ^ bit
    other = (turns > 2).view(torch.int8)  # brighter neighbours in more than one arc
    labels = (count + other * (PATTERNS - 1 - count)).flatten(2)
    return label_counts(labels, PATTERNS) / labels.shape[-1]
