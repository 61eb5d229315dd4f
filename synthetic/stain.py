"""The colours of one slide: stain vectors, strengths and background, as a table from stain amounts to RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..store.arrays import Floats, Pixels

H_FULL = 1.5
E_FULL = 1.0
"""Stain amounts that the value 255 of a stain plane stands for, in optical density along the stain's unit vector."""

# Near Ruifrok & Johnston (2001), Anal Quant Cytol Histol 23:291-299, with more blue absorbed, as today's scanners
# show the stains: nuclei violet and collagen pink, not ultramarine and magenta.
_HAEMATOXYLIN = np.array([0.62, 0.71, 0.33])
_EOSIN = np.array([0.14, 0.89, 0.42])


@dataclass(frozen=True)
class Stain:
    """How a slide was stained and scanned.

    Attributes
    ----------
    haematoxylin, eosin
        (3,) optical density of red, green and blue per unit of stain.
    h_strength, e_strength
        Factors on the amounts.
    background
        (3,) RGB of bare glass, 0..255.
    """

    haematoxylin: Floats
    eosin: Floats
    h_strength: float
    e_strength: float
    background: Floats


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw the laboratory's habit for one patient."""
    return Stain(
        haematoxylin=_unit(_HAEMATOXYLIN + rng.normal(0, 0.035, 3)),
        eosin=_unit(_EOSIN + rng.normal(0, 0.035, 3)),
        h_strength=float(np.exp(rng.normal(0, 0.12))),
        e_strength=float(np.exp(rng.normal(0, 0.12))),
        background=np.array([242.0, 240.0, 243.0]) + rng.normal(0, 3) + rng.normal(0, 1.2, 3),
    )


def vary_stain(stain: Stain, rng: np.random.Generator) -> Stain:
    """Draw one slide of a patient: the same habit on another day."""
    return replace(
        stain,
        haematoxylin=_unit(stain.haematoxylin + rng.normal(0, 0.015, 3)),
        eosin=_unit(stain.eosin + rng.normal(0, 0.015, 3)),
        h_strength=stain.h_strength * float(np.exp(rng.normal(0, 0.06))),
        e_strength=stain.e_strength * float(np.exp(rng.normal(0, 0.06))),
        background=np.clip(stain.background + rng.normal(0, 1.5) + rng.normal(0, 0.5, 3), 225, 252),
    )


def colour_table(stain: Stain) -> Pixels:
    """RGB of every pair of stain values.

    Beer-Lambert: the transmitted light is background * 10^-(h H + e E). Eosin is displaced where haematoxylin is
    dense, as nuclei hold little of it.

    Returns
    -------
    Pixels
        (65536, 3), indexed by 256 * haematoxylin + eosin.
    """
    step = np.arange(256) / 255
    h = (step * H_FULL * stain.h_strength)[:, None]  # (256, 1)
    e = (step * E_FULL * stain.e_strength)[None, :] * (1 - 0.6 * np.clip(h / 0.8, 0, 1))  # (256, 256)
    density = h[..., None] * stain.haematoxylin + e[..., None] * stain.eosin  # (256, 256, 3)
    rgb = stain.background * 10**-density
    return np.asarray(np.round(rgb), dtype=np.uint8).reshape(-1, 3)


def _unit(vector: Floats) -> Floats:
    clipped = np.clip(vector, 0.01, None)
    return np.asarray(clipped / np.linalg.norm(clipped))
