"""From maps to pixels: eosin and haematoxylin planes, nuclei on top, then the slide's colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..store.arrays import Floats, Pixels
from .fields import MAP_UM
from .nuclei import place_nuclei, stamp_nuclei
from .stain import Stain, colour_table
from .tissue import Tissue

PLANE_UM = 1.0
"""Cytoplasm and fibres are drawn at 1 um/px and enlarged: they hold nothing finer."""

TILE = 1024
"""Side of the repeating textures in px; a power of two, so that wrapping is a bit mask."""

BAND_ROWS = 128


@dataclass(frozen=True)
class _Weave:
    """What is drawn at random below the maps: the fibres' course and streaks, and the cytoplasm's grain.

    Tiles are (TILE, TILE), of mean 0 and variance 1, and repeat without a seam.
    """

    base_angle: float
    strands: Floats
    grain: Floats


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
    weave = _draw_weave(rng)
    side = round(tissue.depth.shape[0] * MAP_UM / mpp)
    eosin, haematoxylin = (_enlarged(plane, side) for plane in _cytoplasm(tissue, weave))
    nuclei = place_nuclei(tissue, _fibre_angle(tissue, weave.base_angle), rng)
    stamp_nuclei(haematoxylin, nuclei, mpp=mpp, rng=rng)
    return _develop(haematoxylin, eosin, colour_table(stain), rng)


def _draw_weave(rng: np.random.Generator) -> _Weave:
    base_angle = rng.uniform(0, np.pi)
    strands = _noise(rng, (1.1, 14.0)) + 0.7 * _noise(rng, (3.5, 40.0))
    grain = _noise(rng, (1.2, 1.2)) + 0.7 * _noise(rng, (5.0, 5.0))
    return _Weave(base_angle, strands / strands.std(), grain / grain.std())


def _fibre_angle(tissue: Tissue, base_angle: float) -> Floats:
    """Direction of the fibres (h, w) in radians: along them the across-coordinate of `_strands` stays the same."""
    dy, dx = np.gradient(tissue.warp_um[0], MAP_UM)
    return np.asarray(np.arctan2(np.cos(base_angle) + dy, -np.sin(base_angle) + dx) - np.pi / 2)


def _cytoplasm(tissue: Tissue, weave: _Weave) -> tuple[Pixels, Pixels]:
    """Planes of eosin and haematoxylin at `PLANE_UM`, without nuclei, 0..255; band by band, which stays in cache."""
    side = round(tissue.depth.shape[0] * MAP_UM / PLANE_UM)
    eosin, haematoxylin = np.empty((side, side), dtype=np.uint8), np.empty((side, side), dtype=np.uint8)
    for top in range(0, side, BAND_ROWS):
        rows = slice(top, min(side, top + BAND_ROWS))
        eosin[rows], haematoxylin[rows] = _cytoplasm_band(tissue, weave, rows, side)
    return eosin, haematoxylin


def _cytoplasm_band(tissue: Tissue, weave: _Weave, rows: slice, side: int) -> tuple[Pixels, Pixels]:
    """Rows of the eosin and the haematoxylin plane."""
    nests, fibre = (_resized(tissue.latent(name), rows, side) for name in ("nests", "fibre"))
    nest = np.clip(3 * nests - 1, 0, 1)
    strand = _strands(tissue, weave, rows, side)
    grain = weave.grain[np.ix_(np.arange(rows.start, rows.stop) % TILE, np.arange(side) % TILE)]
    stroma = 0.11 + 0.19 * fibre + (0.02 + 0.06 * fibre) * strand + 0.015 * grain
    eosin = stroma + nest * (0.15 + 0.05 * fibre + 0.027 * grain - stroma)
    blue = 0.035 + 0.005 * strand + nest * (0.065 + 0.017 * grain)
    # Gaps and outline end within some 4 um, along a line that the strands make ragged.
    solid = np.clip(-2.5 * _resized(tissue.gaps, rows, side) + 0.1 * strand, 0, 1)
    solid *= np.clip(120 * _resized(tissue.depth, rows, side) + 0.2 * strand, 0, 1)
    solid *= 1 + 0.06 * _resized(tissue.unevenness, rows, side)
    return _plane(eosin * solid), _plane(blue * solid)


def _strands(tissue: Tissue, weave: _Weave, rows: slice, side: int) -> Floats:
    """Wavy fibres, of order one: the streaked tile looked up at turned and bent coordinates."""
    warp_x, warp_y = (_resized(warp, rows, side) / np.float32(PLANE_UM) for warp in tissue.warp_um)
    x = np.arange(side, dtype=np.float32)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    sine, cosine = np.float32(np.sin(weave.base_angle)), np.float32(np.cos(weave.base_angle))
    across = (cosine * y - sine * x + warp_x).astype(np.int32) & (TILE - 1)
    along = (cosine * x + sine * y + warp_y).astype(np.int32) & (TILE - 1)
    return np.asarray(weave.strands.ravel()[across * TILE + along])


def _noise(rng: np.random.Generator, sigma_px: tuple[float, float]) -> Floats:
    """Tile of smooth noise with variance 1 that repeats without a seam."""
    from scipy.ndimage import gaussian_filter

    tile = gaussian_filter(rng.standard_normal((TILE, TILE), dtype=np.float32), sigma_px, mode="wrap", truncate=3.0)
    return np.asarray(tile / tile.std())


def _resized(values: Floats, rows: slice, side: int) -> Floats:
    """Rows of the bilinear enlargement of a map to (side, side), float32."""
    from PIL import Image

    height, width = values.shape
    band = (0, rows.start * height / side, width, rows.stop * height / side)
    # Only the cells that the band's interpolation reaches are handed over.
    top, bottom = max(0, int(band[1]) - 2), min(height, int(band[3]) + 3)
    image = Image.fromarray(np.ascontiguousarray(values[top:bottom], dtype=np.float32))
    box = (0, band[1] - top, width, band[3] - top)
    return np.asarray(image.resize((side, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box))


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
        index = (np.minimum(haematoxylin[rows], 252) + (grain >> 7)).astype(np.uint16) << 8
        index += np.minimum(eosin[rows], 252) + (grain & 3)
        np.take(table, index, axis=0, out=rgb[rows])
    return rgb
