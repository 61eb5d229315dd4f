"""Marker ink on a slide, told from stained tissue by which colours it absorbs."""

from __future__ import annotations

import logging

import numpy as np

from ...store.arrays import Bools, Floats

SEEN = 0.08
SURE = 0.2
"""Optical density of the strongest channel from which ink continues, and from which it begins."""

WITHIN = 0.9
"""Share of what surrounds a red stroke that must absorb for it to lie within tissue."""

MOST_INK = 0.5
"""Share of all that absorbs from which on its colour is the stain's."""

log = logging.getLogger(__name__)


def pen_mask(density: Floats) -> Bools:
    """Strokes of blue, green, red and black marker, with their soft edge.

    Haematoxylin and eosin both absorb green most. Over the sections this was fitted to, the ratio of optical densities
    red/green stays below 1.25 and blue/green between 0.3 and 0.75. Blue and green ink absorb red most; red ink absorbs
    blue about as much as green, and hardly any red; black ink absorbs all three alike. Ink is looked for in strokes
    wider than 1/200 of the thumbnail, so that single dark or pigmented cells stay tissue.

    Ink over tissue adds to the stain, and where the stain is the stronger of the two the sum looks like tissue and is
    kept. Of thick strokes drawn over pale and haematoxylin-rich sections, 98 % or more of blue, green and black ink
    over tissue is found, but only 15 to 86 % of red; over dense eosin only green is reliably found. Violet ink whose
    red and green densities are alike is haematoxylin to any colour rule. Tissue so black that no colour is left, such
    as coal dust, is taken for black ink. Blood has the colours of red ink: red within tissue is kept, as blood. Where
    half of all that absorbs has the colours of ink, as under DAB or Masson's trichrome, it is the stain, and nothing is
    taken for ink.

    Parameters
    ----------
    density
        (3, h, w) optical density of a thumbnail relative to glass, smoothed over a pixel or so.

    Returns
    -------
    Bools
        (h, w).
    """
    from scipy import ndimage

    longest = max(density.shape)
    found = np.zeros(density.shape[1:], dtype=np.bool_)
    strong = density.max(axis=0)
    # The opening keeps what holds a disc of ink; the stroke is then followed to its faint ends.
    disc = _disc(max(1, round(longest / 400)))
    for kind, ink in _inks(density).items():
        sure = ndimage.binary_opening(ink & (strong > SURE), disc)
        if sure.any():
            stroke = ndimage.binary_propagation(sure, mask=ink & (strong > SEEN))
            found |= _beside_glass(stroke, strong > SEEN) if kind == "red" else stroke
    if found.sum() > MOST_INK * (strong > SEEN).sum():
        log.warning("half of what absorbs has the colours of ink, so it is taken for a stain; look at the picture")
        return np.zeros_like(found)
    return np.asarray(ndimage.binary_dilation(found, _disc(max(1, round(longest / 512)))), dtype=np.bool_)


def _beside_glass(strokes: Bools, absorbing: Bools) -> Bools:
    """Strokes without those that lie within tissue."""
    from scipy import ndimage

    labels, count = ndimage.label(strokes)
    # Two pixels out, beyond the soft edge; each pixel there is asked for the stroke it surrounds.
    around = ndimage.grey_dilation(labels, size=(7, 7))
    ring = (around > 0) & ~ndimage.binary_dilation(strokes, np.ones((3, 3)))
    within = np.bincount(around[ring & absorbing], minlength=count + 1)
    size = np.bincount(around[ring], minlength=count + 1)
    keeps = within <= WITHIN * size
    keeps[0] = False
    return np.asarray(keeps[labels])


def _inks(density: Floats) -> dict[str, Bools]:
    """Where each kind of ink may be."""
    red, green, blue = density
    blue_or_green = red > 1.3 * green
    red_ink = (blue > 0.8 * green) & (red < 0.5 * green)
    black = density.min(axis=0) > 0.8 * density.max(axis=0)
    return {"blue or green": blue_or_green, "red": red_ink, "black": black & (green > SURE)}


def _disc(radius: int) -> Bools:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x**2 + y**2 <= radius**2 + radius)
