"""From maps to pixels: eosin and haematoxylin planes, nuclei on top, then the slide's colours."""

from __future__ import annotations

import numpy as np

from ...store.arrays import Floats, Pixels
from .fields import MAP_UM
from .nuclei import place_nuclei, stamp_nuclei
from .stain import Stain, colour_table
from .tissue import Tissue

PLANE_UM = 1.0
"""Cytoplasm and fibres are drawn at 1 um/px and enlarged: they hold nothing finer."""

TILE = 1024
BAND_ROWS = 512


def render_section(tissue: Tissue, stain: Stain, *, mpp: float, rng: np.random.Generator) -> Pixels:
    """Draw a section.

    Parameters
    ----------
    tissue
        Maps of the section.
    stain
        Colours of the slide.
    mpp
        um per pixel of the picture.
    rng
        Source of all that is random below the maps: fibres, nuclei, grain.

    Returns
    -------
    Pixels
        (h, w, 3).
    """
    base_angle = rng.uniform(0, np.pi)
    eosin, haematoxylin = _cytoplasm(tissue, base_angle, rng)
    side = round(tissue.depth.shape[0] * MAP_UM / mpp)
    eosin, haematoxylin = _enlarged(eosin, side), _enlarged(haematoxylin, side)
    nuclei = place_nuclei(tissue, fibre_angle(tissue, base_angle), rng)
    stamp_nuclei(haematoxylin, nuclei, mpp=mpp, rng=rng)
    return _develop(haematoxylin, eosin, colour_table(stain), rng)


def fibre_angle(tissue: Tissue, base_angle: float) -> Floats:
    """Direction of the fibres (h, w) in radians: along them the across-coordinate of `_fibres` stays the same."""
    dy, dx = np.gradient(tissue.warp_um[0], MAP_UM)
    return np.asarray(np.arctan2(np.cos(base_angle) + dy, -np.sin(base_angle) + dx) - np.pi / 2)


def _cytoplasm(tissue: Tissue, base_angle: float, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Planes of eosin and haematoxylin at `PLANE_UM`, without nuclei, 0..255."""
    side = round(tissue.depth.shape[0] * MAP_UM / PLANE_UM)
    nests, fibre = (_resized(tissue.latent(name), side) for name in ("nests", "fibre"))
    nest = np.clip(3.0 * (nests - 0.5) + 0.5, 0, 1)
    strand = _fibres(tissue, base_angle, side, rng)
    grain = _tiled(_noise(rng, (1.2, 1.2)) + 0.7 * _noise(rng, (5.0, 5.0)), side)
    stroma = 0.15 + 0.25 * fibre + (0.03 + 0.12 * fibre) * strand
    eosin = stroma + nest * (0.19 + 0.06 * fibre + 0.022 * grain - stroma)
    blue = 0.035 + 0.005 * strand + nest * (0.065 + 0.014 * grain)
    # Gaps and outline end within some 4 um, along a line that the strands make ragged.
    solid = np.clip(-_resized(tissue.gaps, side) * 2.5 + 0.25 * strand, 0, 1)
    solid *= np.clip(_resized(tissue.depth, side) * 120 + 0.5 * strand, 0, 1)
    solid *= 1 + 0.06 * _resized(tissue.unevenness, side)
    return _plane(eosin * solid), _plane(blue * solid)


def _fibres(tissue: Tissue, base_angle: float, side: int, rng: np.random.Generator) -> Floats:
    """Wavy fibres (side, side) of order one: two streaked tiles looked up at bent coordinates."""
    fine, coarse = _noise(rng, (1.1, 18.0)), _noise(rng, (4.0, 60.0))
    tile = (fine + 0.9 * coarse) / np.float32(1.35)
    warp_x, warp_y = (_resized(warp, side) / PLANE_UM for warp in tissue.warp_um)
    x = np.arange(side, dtype=np.float32)
    y = x[:, None]
    sine, cosine = np.float32(np.sin(base_angle)), np.float32(np.cos(base_angle))
    across = (cosine * y - sine * x + warp_x).astype(np.int32) & (TILE - 1)
    along = (cosine * x + sine * y + warp_y).astype(np.int32) & (TILE - 1)
    return np.asarray(tile.ravel()[across * TILE + along])


def _noise(rng: np.random.Generator, sigma_px: tuple[float, float]) -> Floats:
    """Tile of smooth noise with variance 1 that repeats without a seam."""
    from scipy.ndimage import gaussian_filter

    tile = gaussian_filter(rng.standard_normal((TILE, TILE), dtype=np.float32), sigma_px, mode="wrap", truncate=3.0)
    return np.asarray(tile / tile.std())


def _tiled(tile: Floats, side: int) -> Floats:
    repeats = -(-side // TILE)
    return np.tile(tile, (repeats, repeats))[:side, :side]


def _resized(values: Floats, side: int) -> Floats:
    """Bilinear enlargement of a map to (side, side), float32."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _plane(amount: Floats) -> Pixels:
    return np.clip(amount * 255, 0, 255).astype(np.uint8)


def _enlarged(plane: Pixels, side: int) -> Pixels:
    from PIL import Image

    return np.array(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))


def _develop(haematoxylin: Pixels, eosin: Pixels, table: Pixels, rng: np.random.Generator) -> Pixels:
    """Colours of the stain planes with the sensor's grain, band by band to spare memory."""
    height, width = eosin.shape
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, BAND_ROWS):
        rows = slice(top, min(height, top + BAND_ROWS))
        grain = np.frombuffer(rng.bytes((rows.stop - top) * width), dtype=np.uint8).reshape(-1, width)
        index = (np.minimum(haematoxylin[rows], 252) + (grain >> 6)).astype(np.uint16) << 8
        index += np.minimum(eosin[rows], 252) + (grain & 3)
        np.take(table, index, axis=0, out=rgb[rows])
    return rgb
