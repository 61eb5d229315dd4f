"""One number a patch, its haematoxylin: the floor that morphology must beat."""

from __future__ import annotations

from torch import Tensor

from .stains import optical_density, stain_amounts


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
