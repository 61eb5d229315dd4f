"""`stain-texture`: colour and texture of the stains, an encoder without weights.

Colour (moments and percentiles of stains and of red, green, blue) and texture (bands, gradients, local patterns,
anisotropy, heterogeneity) of haematoxylin, eosin and total optical density, over five octaves. Every number is of
order one on stained tissue, finite on any patch, and the same for a patch turned by 90 degrees or mirrored.
A change of any number here needs a new version in the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BINS = 256


def percentiles(values: Tensor, quantiles: Sequence[float], *, low: float, high: float) -> Tensor:
    """Percentiles of each row, linear inside a bin.

    Parameters
    ----------
    values
        (..., k); what lies outside `low`..`high` counts as lying at that end.
    quantiles
        Between 0 and 1, both excluded.
    low, high
        Range of the histogram's `BINS` bins; a percentile is exact to one bin.

    Returns
    -------
    Tensor
        (..., q) float32.
    """
    width = (high - low) / BINS
    bins = values.sub(low).mul_(1 / width).clamp_(0, BINS - 1)  # (..., k)
    below = label_counts(bins, BINS).cumsum(dim=-1)  # (..., BINS) values up to and with each bin
    wanted = torch.tensor(quantiles, device=values.device) * values.shape[-1]
    wanted = wanted.expand(*values.shape[:-1], len(quantiles)).contiguous()  # (..., q)
    at = torch.searchsorted(below, wanted).clamp_(max=BINS - 1)
    upto = below.gather(-1, at)
    before = below.gather(-1, (at - 1).clamp(min=0)).masked_fill(at == 0, 0)
    part = (wanted - before) / (upto - before).clamp(min=1)
    return low + width * (at + part)


def label_counts(labels: Tensor, n: int) -> Tensor:
    """How often each label 0..n-1 (whole part of the value) occurs in each row of (..., k): (..., n) float32."""
    rows = labels.shape[:-1].numel()
    narrow = torch.int16 if rows * n <= 2**15 else torch.int32  # counting is bound by memory
    first = torch.arange(rows, device=labels.device, dtype=narrow) * n
    shifted = labels.reshape(rows, -1).to(narrow).add_(first[:, None])  # each row counts into bins of its own
    return torch.bincount(shifted.flatten(), minlength=rows * n).float().view(*labels.shape[:-1], n)


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


STAIN_RGB = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density in red, green, blue of haematoxylin, eosin and diaminobenzidine, of unit amount."""


def optical_density(x: Tensor) -> Tensor:
    """-log10 of transmitted light, RGB of 0..1; black counts as 1/255, so 0 <= density <= 2.41."""
    return x.clamp(min=1 / 255).log10_().neg_()


def stain_amounts(density: Tensor) -> Tensor:
    """Haematoxylin, eosin and mean density, (b, 3 colours, s, s) optical density -> (b, 3, s, s).

    Amounts below zero are kept: they are what the stain matrix leaves over, and clipping would bias every mean.
    """
    b, _, height, width = density.shape
    unmixing = torch.linalg.inv(torch.tensor(STAIN_RGB, dtype=torch.float64))[:, :2]  # (3 colours, 2 stains)
    mixed = torch.cat([unmixing.T, torch.full((1, 3), 1 / 3, dtype=torch.float64)]).to(
        density
    )  # (3 amounts, 3 colours)
    return torch.bmm(mixed.expand(b, 3, 3), density.flatten(2)).view(b, 3, height, width)


GRID = 7
"""Tokens are the cells of a 7 x 7 grid, each described as a patch of its own."""

DIM = 314

LEVELS = 6
"""Levels of the pyramid, from 224 px (a cell: 32 px) to 7 px (1 px)."""

CHUNK_PX = 8 * 224 * 224
"""Pixels described at a time: their maps stay in the processor's cache."""

FLAT = 0.002
ENERGY = 0.02
"""Optical density, per px, of imperceptible and of ordinary texture: energies are log((e + FLAT) / ENERGY)."""

TAIL = 0.05
"""Optical density beyond which deviations of a band are compressed."""

WINDOWED = (1, 2)
"""Levels on which gradients are also looked at in windows of 4 x 4 px."""

COLOUR_PAIRS = ((0, 1), (3, 4), (3, 5), (4, 5))
"""Whose correlation is taken: haematoxylin and eosin, red and green, red and blue, green and blue."""

COLOUR_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BAND_QUANTILES = (0.02, 0.1, 0.25, 0.75, 0.9, 0.98)
GRADIENT_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
LOCAL_QUANTILES = (0.1, 0.5, 0.9)


class StainTexture:
    """Describes RGB patches of 0..1, (b, 3, 224, 224)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Describe whole patches: (b, dim)."""
        if not len(x):
            return x.new_empty(0, DIM)
        return torch.cat([describe(part) for part in torch.split(x, max(1, CHUNK_PX // (x.shape[2] * x.shape[3])))])

    def tokens(self, x: Tensor) -> Tensor:
        """Describe the cells of a 7 x 7 grid, each from its own pixels: (b, 49, dim), row by row."""
        b, _, height, width = x.shape
        side = height // GRID
        cells = x.view(b, 3, GRID, side, GRID, width // GRID).permute(0, 2, 4, 1, 3, 5)
        return self(cells.reshape(b * GRID * GRID, 3, side, side)).view(b, GRID * GRID, -1)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole patches (b, dim), and the cells of the grid (b, 49, dim)."""
        return self(x), self.tokens(x)


def describe(x: Tensor) -> Tensor:
    """All numbers of patches (n, 3, s, s), s a multiple of 32: (n, DIM)."""
    stains = pyramid(stain_amounts(optical_density(x)), LEVELS)  # haematoxylin, eosin, total
    colours = torch.cat([stains[1], halved(x)], dim=1)  # and red, green, blue: (n, 6, s / 2, s / 2)
    groups = [
        *_colour(colours),
        *(number for fine, coarse in pairwise(stains[1:]) for number in _band(fine, coarse)),
        *(number for level, maps in enumerate(stains[:4]) for number in _edges(maps, level)),
        *(2 * local_patterns(maps).sqrt() for maps in stains[:2]),
    ]
    return torch.cat([group.flatten(1) for group in groups], dim=1)


def _colour(colours: Tensor) -> list[Tensor]:
    """Moments, correlations and percentiles of the colours."""
    values = colours.flatten(2)  # (n, 6, k)
    mean = values.mean(dim=-1)
    centred = values - mean[..., None]
    squares = centred * centred
    std = squares.mean(dim=-1).sqrt()
    size = std + 0.02  # noise of a flat field has no shape worth a number
    skew = (squares * centred).mean(dim=-1) / size**3
    kurtosis = (squares * squares).mean(dim=-1) / size**4
    pairs = [_correlation(centred[:, i], centred[:, j]) for i, j in COLOUR_PAIRS]
    spread = percentiles(halved(colours).flatten(2), COLOUR_QUANTILES, low=-0.5, high=2.06)
    return [2 * mean - 1, 5 * std, skew.asinh(), kurtosis.log1p(), torch.stack(pairs, dim=1), 2 * spread - 1]


def _band(fine: Tensor, coarse: Tensor) -> list[Tensor]:
    """Energy, tails and stain correlation of one octave: its tails are the dark and bright blobs of that size."""
    values = band(fine, coarse).flatten(2)  # (n, 3, k)
    tails = percentiles(values, BAND_QUANTILES, low=-0.64, high=0.64)
    return [
        _log_energy(values.abs().mean(dim=-1)),
        (tails / TAIL).asinh(),
        _correlation(values[:, 0], values[:, 1])[:, None],
    ]


def _edges(maps: Tensor, level: int) -> list[Tensor]:
    """Strength of gradients; on some levels its percentiles, common directions and local variation too."""
    along_x, along_y = gradients(maps)
    energy = (along_x * along_x).addcmul_(along_y, along_y)
    mean_energy = energy.mean(dim=(2, 3))
    strength = energy.sqrt_()  # optical density per 2 px
    mean = strength.mean(dim=(2, 3))
    std = (mean_energy - mean * mean).clamp(min=0).sqrt()
    found = [mean, std]
    if level > 0:  # percentiles of the finest level would cost as much as all others together
        found.append(percentiles(strength.flatten(2), GRADIENT_QUANTILES, low=0.0, high=1.28))
    if level in WINDOWED:
        local = window_means(strength).flatten(2)
        found += [local.std(dim=-1, correction=0), percentiles(local, LOCAL_QUANTILES, low=0.0, high=1.28)]
    logs = [_log_energy(strengths / 2) for strengths in found]
    return [*logs, coherence(along_x, along_y)] if level in WINDOWED else logs


def _log_energy(energy: Tensor) -> Tensor:
    return ((energy + FLAT) / ENERGY).log()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of centred values (n, k) each: (n,); 0 where either is flat."""
    sizes = (a * a).mean(dim=-1) * (b * b).mean(dim=-1)
    return (a * b).mean(dim=-1) / (sizes.sqrt() + 1e-4)


class Haematoxylin:
    """Mean optical density of the haematoxylin stain."""

    def __call__(self, x: Tensor) -> Tensor:
        """RGB (b, 3, s, s) of 0..1 -> (b, 1)."""
        return stain_amounts(optical_density(x))[:, :1].mean(dim=(2, 3))

    def tokens(self, x: Tensor) -> Tensor:
        """The whole patch as its only cell: (b, 1, 1)."""
        return self(x)[:, None]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole patches (b, 1), and the same as their only cell (b, 1, 1)."""
        found = self(x)
        return found, found[:, None]
