"""Optical density, and its separation into stains (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291)."""

from __future__ import annotations

import torch
from torch import Tensor

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
