"""Spots held against their array, the slide's picture and its tissue, whatever source they come from.

What cannot be right is refused: two sections in one, positions of other rows, places beyond the picture. What may be
right is a warning that says what was seen, for Space Ranger mirrors images, and a tissue mask may err.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints, Strings
from ...store.errors import CohortError
from .sample import Spots

log = logging.getLogger(__name__)

FEW = 0.01
"""Share of spots that may share their place with another: a slip, and not a second section."""

LOW_TISSUE = 0.5
"""Share of the spots on tissue below which it is worth a warning."""

MUCH_BETTER = 0.2
"""How much larger that share must be with x and y exchanged, or the picture turned, to be worth a warning."""

DIAMETERS = (0.2, 1.5)
"""Diameter of a spot in pitches: 0.5 to 0.65 on Visium and legacy ST, 1 for bins."""

APART, EVEN = 1.5, 0.2
"""Spots of one section lie this many times further apart than all spots of a file, and evenly: the range of the middle
80 % of their distances, by the median, is below the second."""

LINE = 0.25
"""Standard deviation of spots across their main direction, in their distances, below which they are one line: a column
of a staggered array is no section."""

EXCHANGED = "x and y exchanged"
ENDINGS = "the endings of their barcodes"

_STEM = re.compile(r"[ACGT]{10,}|^\d+x\d+(?=[-_])")  # a barcode or a part of one, or a place on a legacy array


def checked_array(slide_id: str, spots: Spots) -> Spots:
    """The spots, refused where several sections were put into one table; without an array that says nothing.

    Two sections give themselves away by array positions, barcodes or pixels that occur twice, or by a column whose
    values split the spots into lattices that lie on top of one another.

    Raises
    ------
    CohortError
        Saying what occurs twice, and which column or ending of the barcodes tells the sections apart.
    """
    array = spots.array
    if array is not None and len(array) > 1 and (array == array[:1]).all():
        log.warning(
            "slide %s: all %d spots have one array position, which says nothing and is left out", slide_id, len(array)
        )
        spots, array = replace(spots, array=None), None
    labels = dict(spots.labels)
    stems, endings = _stems(spots.barcode)
    if endings is not None:
        labels[ENDINGS] = endings
    places = {
        "array positions": array,
        "barcodes without their endings": stems,
        "positions in px": spots.center_px,
    }
    twice = {what: _again(values) for what, values in places.items() if values is not None}
    found = {what: n for what, n in twice.items() if n > FEW * len(spots.barcode)}
    if found:
        what, n = next(iter(found.items()))
        splitting = _splitting(places[what], labels)
        raise _several(slide_id, len(spots.barcode), f"{n} {what} occur more than once", splitting, labels)
    overlaid = None if array is not None else _overlaid(spots)
    if overlaid is not None:
        raise _several(slide_id, len(spots.barcode), "they form lattices on top of one another", overlaid, labels)
    for what, n in twice.items():
        if n:
            log.warning("slide %s: %d of %d %s occur more than once", slide_id, n, len(spots.barcode), what)
    return spots


def _several(
    slide_id: str, n: int, seen: str, splitting: str | None, labels: Mapping[str, NDArray[np.object_]]
) -> CohortError:
    by = ""
    if splitting is not None:
        values, counts = np.unique(labels[splitting].astype(str), return_counts=True)
        listed = ", ".join(f"{value} ({count})" for value, count in zip(values[:4], counts, strict=False))
        what = splitting if splitting == ENDINGS else f"the column {splitting!r}"
        by = f" They are, by {what}: {listed}{' ...' if len(values) > 4 else ''}."
    return CohortError(
        f"slide {slide_id}: of its {n} spots, {seen}: these are several sections in one file.{by} Write one file a "
        "slide, each with its own image."
    )


def _again(values: NDArray[np.generic]) -> int:
    """Number of rows that repeat an earlier one."""
    return len(values) - len(np.unique(_single(values)))


def _single(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Pairs (n, 2) as one value a row, which sorts many times faster."""
    return values if values.ndim == 1 else np.ascontiguousarray(values, dtype=np.float64).view(np.complex128)[:, 0]


def _stems(barcode: Strings) -> tuple[Strings | None, NDArray[np.object_] | None]:
    """Barcodes without what was put before and after them, and that; None where names are of another kind."""
    if not any(_STEM.search(name) for name in barcode[:20].tolist()):
        return None, None
    names = barcode.tolist()
    # All parts of a barcode: of those that are a row's and a column's, as DBiT-seq has them, one alone repeats.
    stems = ["_".join(_STEM.findall(name)) or name for name in names]
    endings = [_STEM.sub("", name) for name in names]
    if len(set(endings)) > len(set(stems)):  # a sample's index, then what tells its spots apart: no spot's barcode
        return None, None
    return np.array(stems, dtype=np.str_), np.array(endings, dtype=object)


def _splitting(values: NDArray[np.generic] | None, labels: Mapping[str, NDArray[np.object_]]) -> str | None:
    """Name of the labels within each of which nothing occurs twice."""
    assert values is not None
    _, number = np.unique(_single(values), return_inverse=True)
    for name, label in labels.items():
        _, code = np.unique(label.astype(str), return_inverse=True)
        if not _again(np.stack([number.reshape(-1), code], axis=1)):
            return name
    return None


def _overlaid(spots: Spots) -> str | None:
    """Name of the column each of whose values is a lattice of its own, wider than that of all spots."""
    from scipy.spatial import cKDTree

    def spacing(center_px: Floats) -> tuple[float, float]:
        distance = cKDTree(center_px).query(center_px, k=2)[0][:, 1]
        low, middle, high = np.percentile(distance, [10, 50, 90])
        return float(middle), float(high - low)

    def is_line(center_px: Floats, middle: float) -> bool:
        across = np.linalg.svd(center_px - center_px.mean(axis=0), compute_uv=False)[1]
        return bool(across < LINE * middle * np.sqrt(len(center_px)))

    closest: float | None = None
    for name, label in spots.labels.items():
        groups = [spots.center_px[label == value] for value in np.unique(label.astype(str))]
        if min(map(len, groups)) < 20:
            continue
        closest = spacing(spots.center_px)[0] if closest is None else closest
        spacings = [spacing(group) for group in groups]
        if not all(middle > APART * closest and spread < EVEN * middle for middle, spread in spacings):
            continue
        if not all(is_line(group, middle) for group, (middle, _) in zip(groups, spacings, strict=True)):
            return name
    return None


def check_spots_inside(slide_id: str, spots: Spots, *, width_px: int, height_px: int) -> None:
    """Refuse spots whose centre is not on the slide.

    Raises
    ------
    CohortError
        Naming how many, and the first.
    """
    x, y = spots.center_px.T
    # Written so that NaN counts as outside.
    outside = ~((x >= 0) & (x <= width_px) & (y >= 0) & (y <= height_px))
    if outside.any():
        first = int(np.argmax(outside))
        msg = (
            f"slide {slide_id}: {int(outside.sum())} of {len(x)} spots lie outside its {width_px} x {height_px} px, "
            f"the first is {spots.barcode[first]} at x={x[first]:.1f} y={y[first]:.1f}. Are the positions those of "
            "another resolution of the image, or x and y exchanged?"
        )
        raise CohortError(msg)


def warn_of_misplaced(
    slide_id: str, spots: Spots, *, pitch_px: float | None, tissue: Bools, size_px: tuple[int, int]
) -> None:
    """Warn, in one line, where spots look exchanged, mirrored, or scaled apart from the slide.

    Parameters
    ----------
    pitch_px
        Distance of neighbouring spots, level-0 pixels; None without an array.
    tissue
        (h, w) mask of the whole slide.
    size_px
        Width and height of the slide at level 0.
    """
    seen = []
    share, others = _shares(spots.center_px, tissue, size_px)
    best = max(others, key=others.__getitem__)
    is_better = others[best] > share + MUCH_BETTER
    mirrored = spots.array is not None and is_mirrored(spots.center_px, spots.array)
    if mirrored:
        seen.append("their array lies mirrored on the picture, as where x and y were exchanged")
    if pitch_px is not None and spots.diameter_px is not None:
        ratio = spots.diameter_px / pitch_px
        if not DIAMETERS[0] <= ratio <= DIAMETERS[1]:
            seen.append(
                f"they are {pitch_px:.1f} px apart, but the scale factors give a diameter of {spots.diameter_px:.1f} "
                "px: positions and scale factors belong to different resolutions of the image"
            )
    if seen or is_better or share < LOW_TISSUE:
        seen.append(f"{share:.0%} of them lie on tissue by the slide's own mask")
        if is_better or (mirrored and EXCHANGED in others):
            other = best if is_better else EXCHANGED
            seen[-1] += f", {others[other]:.0%} would with {other}"
        log.warning(
            "slide %s, %d spots: %s. Look at qc/%s.jpg in the store; if the spots lie right there, nothing is wrong",
            slide_id, len(spots.barcode), "; ".join(seen), slide_id,
        )  # fmt: skip


def is_mirrored(center_px: Floats, array: Ints) -> bool:
    """Whether the array turns left where the picture turns right: no rotation brings rows down and columns right."""
    rows = array - array.mean(axis=0)
    if np.linalg.matrix_rank(rows) < 2:
        return False  # one row or column lies as well on either side
    transform = np.linalg.lstsq(rows, center_px - center_px.mean(axis=0), rcond=None)[0]  # (row, column) to (x, y)
    return bool(np.linalg.det(transform[::-1]) < 0)


def _shares(center_px: Floats, tissue: Bools, size_px: tuple[int, int]) -> tuple[float, dict[str, float]]:
    """Share of the spots on tissue, and what it would be after each mistake that people make, as far as spots fit."""
    turned = size_px - center_px
    columns = {
        EXCHANGED: center_px[:, ::-1],
        "left and right exchanged": np.stack([turned[:, 0], center_px[:, 1]], axis=1),
        "top and bottom exchanged": np.stack([center_px[:, 0], turned[:, 1]], axis=1),
        "the picture turned by 180 degrees": turned,
    }
    height, width = tissue.shape

    def share(center: Floats) -> float:
        at = np.minimum((center / size_px * [width, height]).astype(np.int64), [width - 1, height - 1])
        return float(tissue[at[:, 1], at[:, 0]].mean())

    return share(center_px), {name: share(one) for name, one in columns.items() if (one <= size_px).all()}
