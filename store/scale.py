"""um per pixel of a slide: the pitch of its spots, and the one verdict over all sources that claim to know the scale.

Slides that are featurized and slides that are imported from another tool are judged by the same limits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .arrays import Bools, Floats, Ints
from .errors import ScaleError

log = logging.getLogger(__name__)

MAX_DISAGREEMENT = 1.05
"""Largest ratio between two candidates that still counts as agreement."""

PLAUSIBLE_MPP = (0.05, 20.0)
"""um/px that a slide can have. Beyond it a value is wrong: a print resolution left in a tag (72 dpi = 353 um/px), nm
taken for um, damage."""

METADATA = "metadata"
"""Name of the image's own metadata among the sources of a scale."""

MAX_RESIDUAL = 0.5
"""Largest root mean square distance, in pitches, between spots and the fitted array; beyond it nothing was fitted."""

MAX_ARRAY_CELLS = 400_000_000
"""Largest array that is taken for one (6.5 mm at 2 um, the finest in use, has 11 million positions)."""


@dataclass(frozen=True)
class Scale:
    """um/px of a slide, and how it came to be known.

    Attributes
    ----------
    mpp
        um per level-0 pixel.
    source
        Which candidate was taken, such as "manifest" (or what else of the source declares it), "command line",
        "metadata" or "spot pitch"; of an import "declared", "metadata" or the tool's file.
    candidates
        um/px of every candidate, by source.
    """

    mpp: float
    source: str
    candidates: dict[str, float]


def is_plausible(mpp: float) -> bool:
    """Whether a slide can have this um/px."""
    return PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]


def agreed_scale(slide_id: str, claims: Mapping[str, float | None], *, unknown: str, correct: str) -> Scale:
    """The first of several claims about a slide's um/px, if all of them agree.

    Parameters
    ----------
    claims
        um/px by source, the most trusted first; None where a source does not say. What the image's metadata claim is
        left out, with a line in the log, where no slide can have it; from any other source it is an error.
    unknown, correct
        What the error says where nothing is known, and where claims contradict one another.

    Raises
    ------
    ScaleError
        If nothing is known, a claim is no slide's um/px, or two are more than 5 % apart.
    """
    low, high = PLAUSIBLE_MPP
    dropped, metadata = "", claims.get(METADATA)
    if metadata is not None and not is_plausible(metadata):
        dropped = (
            f" (The image's metadata say {metadata:g} um/px, which is no slide's scale but a print resolution; a slide "
            f"has {low:g} to {high:g}.)"
        )
        log.info("slide %s: um/px of the metadata ignored:%s", slide_id, dropped)
        claims = {**claims, METADATA: None}
    candidates = {source: mpp for source, mpp in claims.items() if mpp is not None}
    for source, mpp in candidates.items():
        if not is_plausible(mpp):
            msg = f"slide {slide_id}: um/px of the {source} is {mpp:g}; a slide has {low:g} to {high:g}. Correct it."
            raise ScaleError(msg)
    if not candidates:
        msg = f"slide {slide_id}: {unknown}{dropped}"
        raise ScaleError(msg)
    if max(candidates.values()) > MAX_DISAGREEMENT * min(candidates.values()):
        listed = ", ".join(f"{source} {mpp:.4g}" for source, mpp in candidates.items())
        msg = (
            f"slide {slide_id}: um/px contradict one another by more than {MAX_DISAGREEMENT - 1:.0%}: {listed}"
            f"{correct}{dropped}"
        )
        raise ScaleError(msg)
    source, mpp = next(iter(candidates.items()))
    return Scale(mpp, source, candidates)


def resolve_scale(
    slide_id: str,
    *,
    manifest: float | None = None,
    command_line: float | None = None,
    metadata: float | None = None,
    pitch_um: float | None = None,
    pitch_px: float | None = None,
    declared_in: str = "manifest",
) -> Scale:
    """Decide on the um/px of a slide whose image is there; the first of the parameters below is taken if all agree.

    Parameters
    ----------
    manifest, command_line
        um/px as declared.
    metadata
        um/px as the image says; see `agreed_scale`.
    pitch_um, pitch_px
        Distance of neighbouring spots as declared and as measured; their ratio is a candidate.
    declared_in
        What stands for the manifest where the source is none, such as "HEST metadata".

    Raises
    ------
    ScaleError
        If nothing is known, a declared value is no slide's, or two candidates are more than 5 % apart.
    """
    if pitch_um is not None and not 0 < pitch_um < math.inf:
        msg = f"slide {slide_id}: spot pitch in um is {pitch_um:g}; wanted a positive number"
        raise ScaleError(msg)
    pitch = pitch_um / pitch_px if pitch_um is not None and pitch_px is not None else None
    detail = f" (spot pitch: {pitch_um:g} um over {pitch_px:.1f} px)" if pitch is not None else ""
    return agreed_scale(
        slide_id,
        {declared_in: manifest, "command line": command_line, METADATA: metadata, "spot pitch": pitch},
        unknown=_unknown(pitch_um=pitch_um, pitch_px=pitch_px),
        correct=f"{detail}. Correct the wrong one: the {declared_in}, --mpp, --pitch-um, or the image's metadata.",
    )


def _unknown(*, pitch_um: float | None, pitch_px: float | None) -> str:
    if pitch_um is not None and pitch_px is None:
        return (
            f"a spot pitch of {pitch_um:g} um was declared, but the slide has no spots with array "
            "positions to measure it on in px. Give --mpp X (um per pixel), or mpp in a manifest."
        )
    never = "no um/px is known, and it is never guessed."
    if pitch_px is None:
        return f"{never} Give --mpp X (um per pixel), or mpp in a manifest."
    return (
        f"{never} Its spots are {pitch_px:.1f} px apart. Give --mpp X (um per pixel), "
        "--pitch-um X (distance of neighbouring spots in um, such as 200 for the first Spatial Transcriptomics arrays "
        "or 100 for Visium), or mpp or pitch_um in a manifest."
    )


def spot_pitch_px(center_px: Floats, array: Ints) -> float:
    """Distance between neighbouring spots, in pixels.

    Fits `pixel = A array + b` over all spots by least squares; the pitch is the length of the shortest `A v`, v an
    integer vector that joins two measured spots. Jitter of single spots averages out, whereas the median distance to
    the nearest spot comes out 6 % short on real arrays; and in a staggered array the shortest v is a diagonal.

    Parameters
    ----------
    center_px
        (n, 2) level-0 pixels, x then y.
    array
        (n, 2) row and column.

    Raises
    ------
    ScaleError
        If all spots share one array position, or pixels do not follow the array.
    """
    centered = array - array.mean(axis=0)  # (n, 2)
    pixels = center_px - center_px.mean(axis=0)  # (n, 2)
    # With b gone by centring, spots on one line determine A along that line, which is where their vectors lie.
    solution, _, _, _ = np.linalg.lstsq(centered, pixels, rcond=None)  # (2 array, 2 pixel) = A transposed
    transform = solution.T
    pitch = _shortest_joining(transform, _occupied(array))
    if pitch is None:
        msg = f"{len(array)} spot(s) at one array position have no pitch: give --mpp X, or mpp in the manifest"
        raise ScaleError(msg)
    residual = float(np.sqrt(((pixels - centered @ solution) ** 2).sum(axis=1).mean()))
    if not residual <= MAX_RESIDUAL * pitch:
        msg = (
            f"pixel positions do not follow the array positions: {residual:.1f} px off on average at a pitch of "
            f"{pitch:.1f} px. Are rows, columns or barcodes mixed up? Correct them, or leave them out and give --mpp X."
        )
        raise ScaleError(msg)
    return pitch


def _occupied(array: Ints) -> Bools:
    """(rows, columns) map of measured positions."""
    local = np.asarray(array, dtype=np.int64) - array.min(axis=0)
    rows, columns = (int(v) + 1 for v in local.max(axis=0))
    if rows * columns > MAX_ARRAY_CELLS:
        msg = f"array positions span {rows} x {columns} rows and columns, which is no array: correct them"
        raise ScaleError(msg)
    grid = np.zeros((rows, columns), dtype=np.bool_)
    grid[local[:, 0], local[:, 1]] = True
    return grid


def _shortest_joining(transform: Floats, grid: Bools) -> float | None:
    """Length of the shortest A v over vectors v that join two measured positions; None where there is no such v.

    Vectors are tried in a window that grows until none outside of it can be shorter: |A v| is at least the smallest
    singular value of A times the larger component of v.
    """
    least = float(np.linalg.svd(transform, compute_uv=False)[-1])
    rows, columns = grid.shape
    reach = 1
    while True:
        down, right = min(reach, rows - 1), min(reach, columns - 1)
        vectors = np.array(
            [(r, c) for r in range(down + 1) for c in range(-right, right + 1) if r > 0 or c > 0], dtype=np.int64
        ).reshape(-1, 2)  # half a plane: v and -v are alike
        lengths = np.linalg.norm(vectors @ transform.T, axis=1)
        for i in np.argsort(lengths, kind="stable"):
            if _joins_two(grid, *map(int, vectors[i])):
                if lengths[i] <= least * (reach + 1) or (down, right) == (rows - 1, columns - 1):
                    return float(lengths[i])
                break
        if (down, right) == (rows - 1, columns - 1):
            return None
        reach *= 2


def _joins_two(grid: Bools, down: int, right: int) -> bool:
    """Whether two measured positions lie (down, right) apart, `down` not negative."""
    rows, columns = grid.shape
    left = grid[: rows - down, max(-right, 0) : columns - max(right, 0)]
    return bool((left & grid[down:, max(right, 0) : columns + min(right, 0)]).any())
