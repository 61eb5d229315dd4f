"""The tissue of one section as maps: where it lies, and the latent structures that drive both picture and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..store.arrays import Bools, Floats, Ints
from .fields import MAP_UM, logistic, ring_means, smooth_field

LATENTS = ("nests", "atypia", "fibre", "infiltrate")
"""Share of epithelial nests; size of their nuclei; density of collagen fibres; density of small dark lymphocytes."""

CONTEXT = "infiltrate"
"""The latent whose surroundings act on expression. It varies fastest, so that a spot's own field does not tell."""

SIGMA_UM = {"nests": 100.0, "atypia": 140.0, "fibre": 120.0, "infiltrate": 75.0}
"""Width of each latent's smoothing; its correlation falls to 1/e at twice this distance."""

SPOT_UM = 100.0
"""Diameter of a spot; local morphology is averaged over it, inside the narrowest default view of 112 um."""

RING_UM = (320.0, 600.0)
"""Where context acts: beyond the half-diagonal (317 um) of the widest default view, a 448 um square."""

MARGIN_UM = 300.0
"""From the outermost spots of the array to the border of the image."""

KEPT_SPOTS = 0.88
"""Share of the array's spots that lies wholly on tissue."""


@dataclass(frozen=True)
class Tissue:
    """Maps of one section; all are (h, w) in cells of `MAP_UM`.

    Attributes
    ----------
    depth
        Above 0 inside the tissue; grows with the distance from its border.
    latents
        (4, h, w) in 0..1, in the order of `LATENTS`.
    gaps
        Above 0 inside lumens, vacuoles and tears.
    warp_um
        (2, h, w), displacement that bends the fibres.
    unevenness
        Slow variation of the section's thickness, of order one.
    """

    depth: Floats
    latents: Floats
    gaps: Floats
    warp_um: Floats
    unevenness: Floats

    @property
    def inside(self) -> Bools:
        """Where the tissue is, (h, w)."""
        return np.asarray(self.depth > 0)

    def latent(self, name: str) -> Floats:
        """One latent, (h, w)."""
        return np.asarray(self.latents[LATENTS.index(name)])


def array_centers_um(spots_per_side: int, pitch_um: float) -> tuple[Floats, Ints]:
    """Centres (n, 2) in um, x then y, and row and column (n, 2) of a full square array."""
    row, column = np.divmod(np.arange(spots_per_side**2, dtype=np.int32), spots_per_side)
    centers = MARGIN_UM + pitch_um * np.stack([column, row], axis=1).astype(np.float64)
    return centers, np.stack([row, column], axis=1)


def grow_tissue(rng: np.random.Generator, *, side_um: float, centers_um: Floats) -> Tissue:
    """Draw the maps of one section.

    Parameters
    ----------
    rng
        Source of everything random; no two sections share a field.
    side_um
        Side of the square image.
    centers_um
        (n, 2) centres of the array; `KEPT_SPOTS` of them come to lie on tissue.
    """
    cells = math.ceil(side_um / MAP_UM)
    shape = (cells, cells)
    smooth = {name: smooth_field(rng, shape, sigma_um=sigma) for name, sigma in SIGMA_UM.items()}
    # Nests are cords of some 40 um whose share of the area follows the slow field.
    cords = smooth_field(rng, shape, sigma_um=14.0)
    slow_gaps = smooth_field(rng, shape, sigma_um=200.0)
    return Tissue(
        depth=_outline(rng, shape, centers_um),
        latents=np.stack(
            [
                logistic(3.0 * (0.75 * smooth["nests"] + 0.6 * cords)),
                logistic(2.0 * smooth["atypia"]),
                logistic(2.0 * smooth["fibre"]),
                logistic(2.0 * smooth["infiltrate"] - 0.5),
            ]
        ),
        gaps=smooth_field(rng, shape, sigma_um=10.0) + 0.8 * slow_gaps - 2.9,
        warp_um=80.0 * np.stack([smooth_field(rng, shape, sigma_um=130.0) for _ in range(2)]),
        unevenness=smooth_field(rng, shape, sigma_um=350.0),
    )


def _outline(rng: np.random.Generator, shape: tuple[int, int], centers_um: Floats) -> Floats:
    """Height over the border of an irregular, rounded region that holds `KEPT_SPOTS` of the spots."""
    axis = np.linspace(-1, 1, shape[0], dtype=np.float32)
    tilt = rng.uniform(0.85, 1.15)
    radius = (np.abs(axis * tilt) ** 3 + np.abs(axis[:, None] / tilt) ** 3) ** np.float32(1 / 3)
    ragged = 0.085 * smooth_field(rng, shape, sigma_um=260.0) + 0.015 * smooth_field(rng, shape, sigma_um=30.0)
    height = ragged - radius
    everywhere = np.ones(shape, dtype=np.bool_)
    lowest = ring_means(height[None], everywhere, centers_um, inner_um=0.0, outer_um=SPOT_UM / 2)[:, 0]
    # Height falls by 0.04 over a spot's radius on a default slide; with 0.05 to spare the whole disc is on tissue.
    border = np.quantile(lowest, 1 - KEPT_SPOTS, method="lower") - 0.05
    return np.asarray(height - border, dtype=np.float32)


def spots_on_tissue(tissue: Tissue, centers_um: Floats) -> Bools:
    """Which spots (n,) lie on tissue with at least 99 % of their disc."""
    everywhere = np.ones(tissue.depth.shape, dtype=np.bool_)
    covered = tissue.inside[None].astype(np.float32)
    return np.asarray(ring_means(covered, everywhere, centers_um, inner_um=0.0, outer_um=SPOT_UM / 2)[:, 0] >= 0.99)


def local_morphology(tissue: Tissue, centers_um: Floats) -> Floats:
    """Latents averaged over each spot, (n, 4), in units of their spread over the slide's spots."""
    return _standardised(ring_means(tissue.latents, tissue.inside, centers_um, inner_um=0.0, outer_um=SPOT_UM / 2))


def context(tissue: Tissue, centers_um: Floats) -> Floats:
    """The context latent averaged over the ring around each spot, (n,), in units of its spread over the spots."""
    values = tissue.latent(CONTEXT)[None]
    means = ring_means(values, tissue.inside, centers_um, inner_um=RING_UM[0], outer_um=RING_UM[1])
    # On a tiny section a ring can miss the tissue altogether; such a spot has average surroundings.
    return _standardised(np.where(np.isnan(means), np.nanmean(means), means))[:, 0]


def _standardised(values: Floats) -> Floats:
    """Columns of mean 0 and standard deviation 1, so that a slide's level says nothing about its spots."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0))
