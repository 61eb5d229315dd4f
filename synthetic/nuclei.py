"""Nuclei: where they lie, and pre-drawn pictures of them that are stamped onto the haematoxylin plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..store.arrays import Bools, Floats, Ints, Pixels
from .fields import MAP_UM
from .tissue import Tissue

EPITHELIAL, LYMPHOCYTE, FIBROBLAST = 0, 1, 2

GRID_UM = 8.0
"""Spacing of candidate places: at most some 15,000 nuclei per mm², as in a lymphoid follicle."""

EPITHELIAL_RADII_UM = np.linspace(2.9, 6.5, 10)
N_ANGLES = 16
N_VARIANTS = 8


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one section.

    Attributes
    ----------
    center_um
        (n, 2), x then y.
    kind
        (n,) `EPITHELIAL`, `LYMPHOCYTE` or `FIBROBLAST`.
    radius_um
        (n,) mean radius; of fibroblasts, half their width.
    angle
        (n,) direction of the long axis in radians, from x towards y.
    """

    center_um: Floats
    kind: Ints
    radius_um: Floats
    angle: Floats


def place_nuclei(tissue: Tissue, fibre_angle: Floats, rng: np.random.Generator) -> Nuclei:
    """Scatter nuclei whose kinds, density and size follow the latents.

    Parameters
    ----------
    tissue
        The section.
    fibre_angle
        (h, w) direction of the fibres, which fibroblasts follow.
    rng
        Source of the scatter.
    """
    center_um, cell = _candidates(tissue, rng)
    kind = _draw_kinds(tissue.latents[:, *cell], rng.random(len(center_um), dtype=np.float32))
    keep = (kind >= 0) & tissue.inside[*cell] & (tissue.gaps[*cell] < 0)
    center_um, kind = center_um[keep], kind[keep]
    cell = (cell[0][keep], cell[1][keep])
    noise = rng.normal(0, 1, len(kind)).astype(np.float32)
    epithelial_um = (3.3 + 2.4 * tissue.latent("atypia")[cell]) * np.exp(0.09 * noise)
    radius_um = np.select([kind == EPITHELIAL, kind == LYMPHOCYTE], [epithelial_um, 2.5 + 0.15 * noise], 1.5)
    along = fibre_angle[cell] + rng.normal(0, 0.15, len(kind))
    angle = np.where(kind == FIBROBLAST, along, rng.uniform(0, np.pi, len(kind)))
    free = _without_overlap(center_um, radius_um, rng)
    return Nuclei(center_um[free], kind[free], radius_um[free], angle[free])


def _candidates(tissue: Tissue, rng: np.random.Generator) -> tuple[Floats, tuple[Ints, Ints]]:
    """Places (n, 2) in um on a jittered grid, and their row and column on the maps."""
    height, width = tissue.depth.shape
    y, x = np.meshgrid(*(np.arange(GRID_UM, n * MAP_UM - GRID_UM, GRID_UM) for n in (height, width)), indexing="ij")
    places = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-0.5, 0.5, (x.size, 2)) * GRID_UM
    column, row = (places / MAP_UM).astype(np.intp).T
    return places, (row, column)


def _draw_kinds(latents: Floats, chance: Floats) -> Ints:
    """Kind (n,) of the nucleus at each place, -1 for none; `latents` is (4, n)."""
    nests, _, fibre, infiltrate = latents
    nest = np.clip(2.2 * (nests - 0.5) + 0.5, 0, 1)
    lymphocyte = 0.02 + 0.60 * infiltrate**2
    epithelial = (1 - lymphocyte) * 0.85 * nest
    fibroblast = (1 - lymphocyte) * 0.10 * (1 - nest) * (0.6 + 0.8 * fibre)
    steps = np.cumsum([lymphocyte, epithelial, fibroblast], axis=0)
    return np.select([chance < step for step in steps], [LYMPHOCYTE, EPITHELIAL, FIBROBLAST], -1)


def _without_overlap(center_um: Floats, radius_um: Floats, rng: np.random.Generator) -> Bools:
    """Which nuclei stay when of two that overlap the one of lower rank goes (Matérn's second hard-core process)."""
    from scipy.spatial import cKDTree

    keep = np.ones(len(center_um), dtype=np.bool_)
    if len(center_um) == 0:
        return keep
    pairs = cKDTree(center_um).query_pairs(2 * float(radius_um.max()), output_type="ndarray")
    gap = np.linalg.norm(center_um[pairs[:, 0]] - center_um[pairs[:, 1]], axis=1)
    pairs = pairs[gap < 0.85 * radius_um[pairs].sum(axis=1)]
    rank = rng.permutation(len(center_um))
    keep[np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = False
    return keep


def stamp_nuclei(plane: Pixels, nuclei: Nuclei, *, mpp: float, rng: np.random.Generator) -> None:
    """Draw nuclei onto a haematoxylin plane (h, w) in place; where two overlap the darker shows."""
    bank = _Bank(mpp, rng)
    chosen = bank.choose(nuclei, rng)
    height, width = plane.shape
    places = np.round(nuclei.center_um / mpp).astype(int)
    for (x, y), number in zip(places.tolist(), chosen.tolist(), strict=True):
        picture = bank.pictures[number]
        half = len(picture) // 2
        if half <= x < width - half and half <= y < height - half:
            spot = plane[y - half : y + half + 1, x - half : x + half + 1]
            np.maximum(spot, picture, out=spot)


class _Bank:
    """Pre-drawn nuclei: epithelial by size and variant, lymphocytes by variant, fibroblasts by angle and variant."""

    def __init__(self, mpp: float, rng: np.random.Generator) -> None:
        self.pictures: list[Pixels] = []
        for radius_um in EPITHELIAL_RADII_UM:
            # Large nuclei are vesicular and pale: size, not the sum of haematoxylin, tells them apart.
            darkness = 0.62 * (4.5 / radius_um) ** 1.2
            for _ in range(N_VARIANTS):
                ratio = rng.uniform(1.0, 1.25)
                axes = (radius_um * ratio, radius_um / ratio)
                self._draw(axes, rng.uniform(0, np.pi), darkness * rng.uniform(0.8, 1.2), mpp, rng)
        for _ in range(N_VARIANTS):
            radius_um = rng.uniform(2.4, 2.9)
            self._draw((radius_um * 1.05, radius_um), rng.uniform(0, np.pi), rng.uniform(0.78, 0.95), mpp, rng)
        for angle in np.arange(N_ANGLES) * np.pi / N_ANGLES:
            for _ in range(N_VARIANTS):
                axes = (rng.uniform(5.0, 9.0), rng.uniform(1.1, 1.7))
                self._draw(axes, angle, rng.uniform(0.55, 0.8), mpp, rng)

    def choose(self, nuclei: Nuclei, rng: np.random.Generator) -> Ints:
        """Number (n,) of the picture for each nucleus."""
        variant = rng.integers(N_VARIANTS, size=len(nuclei.kind))
        size = np.abs(nuclei.radius_um[:, None] - EPITHELIAL_RADII_UM).argmin(axis=1)
        angle = np.round(nuclei.angle / np.pi * N_ANGLES).astype(int) % N_ANGLES
        first_lymphocyte = len(EPITHELIAL_RADII_UM) * N_VARIANTS
        first_fibroblast = first_lymphocyte + N_VARIANTS
        return np.select(
            [nuclei.kind == EPITHELIAL, nuclei.kind == LYMPHOCYTE],
            [size * N_VARIANTS + variant, first_lymphocyte + variant],
            first_fibroblast + angle * N_VARIANTS + variant,
        )

    def _draw(
        self, axes_um: tuple[float, float], angle: float, darkness: float, mpp: float, rng: np.random.Generator
    ) -> None:
        """Draw one ellipse with a rough outline, a darker rim, clumped chromatin and, where large, a nucleolus."""
        from scipy.ndimage import gaussian_filter

        long_px, short_px = (a / mpp for a in axes_um)
        half = int(np.ceil(max(axes_um) * 1.15 / mpp)) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        turn = np.arctan2(v / short_px, u / long_px)
        rough = 1 + sum(rng.normal(0, 0.05 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in (2, 3, 4))
        reach = np.hypot(u / long_px, v / short_px) / rough
        # One and a half pixels of blur at the outline, as the objective's resolution leaves it.
        cover = np.clip((1 - reach) * short_px / 1.5 + 0.5, 0, 1)
        clumps = gaussian_filter(rng.standard_normal(x.shape), 0.5 / mpp) * (1.0 / mpp)
        vesicular = np.clip((short_px * mpp - 2.8) / 2.0, 0, 1)
        chromatin = 1 - vesicular * (0.35 - 0.45 * np.exp(-(((reach - 0.92) / 0.16) ** 2))) + 0.16 * clumps
        for _ in range(rng.poisson(1.2 * vesicular)):
            distance = np.hypot(u - rng.normal(0, 0.3) * long_px, v - rng.normal(0, 0.3) * short_px) * mpp
            chromatin += 0.55 * np.exp(-((distance / 0.9) ** 2))
        self.pictures.append(np.clip(cover * chromatin * darkness * 170, 0, 250).astype(np.uint8))
