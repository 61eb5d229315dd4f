"""`stain-texture`: colour and texture of the stains, an encoder without weights.

Colour (moments and percentiles of stains and of red, green, blue) and texture (bands, gradients, local patterns,
anisotropy, heterogeneity) of haematoxylin, eosin and total optical density, over five octaves. Every number is of
order one on stained tissue, finite on any patch, and the same for a patch turned by 90 degrees or mirrored.
A change of any number here needs a new version in the registry.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .histogram import percentiles
from .stains import optical_density, stain_amounts
from .texture import band, coherence, gradients, halved, local_patterns, pyramid, window_means

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
