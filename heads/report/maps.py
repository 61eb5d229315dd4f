"""Maps of one gene as pictures for the report: spots in place, a scale bar in um, a colour bar, the tissue beside.

The figures are made with matplotlib's object-oriented interface and drawn by Agg, so that no global state is
touched and no display is needed. Each comes back as a data URI.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...store.arrays import Floats
from ..comparison.comparison import GeneMap
from ..comparison.numbers import score_text

COLOUR_MAP = "viridis"
NO_VALUE_COLOUR = "#c9ced6"
INK = "#1d2530"
WIDTH_INCH = 3.4
DPI = 200
# The colour range leaves the extreme hundredth at each end out, or one bright spot would darken all others.
COLOUR_PERCENTILES = (1.0, 99.0)
# Heights beyond these, in widths, would leave the page; the field is padded, the aspect stays true.
ASPECT_LIMITS = (0.45, 1.6)
DEFAULT_SPOT_UM = 100.0
BAR_HEIGHT_INCH = 0.55
# Diameter of a drawn spot, in distances to the nearest one.
SPOT_SHARE = 0.9
# A dark line on a light one is seen on pale stroma and on dark nuclei alike; widths in points.
OUTLINES = (("white", 1.8), ("#111111", 0.7))
# Below the spots, in widths: the scale bar stands there and hides none of them.
SCALE_STRIP = 0.1


@dataclass(frozen=True)
class MapFrame:
    """The rectangle of a slide that is shown, in um from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


def map_pictures(gene_map: GeneMap) -> dict[str, str]:
    """Return pictures of the same field by their captions, as data URIs.

    The tissue comes first where there is a thumbnail, with the spots drawn on it. Measured and predicted values share
    one colour scale; the last picture shows the predicted values in colours of their own.

    Parameters
    ----------
    gene_map
        With one spot at least.
    """
    field, unit = shown_field(gene_map.center_um), gene_map.unit
    shared = colour_range(np.concatenate([gene_map.measured, gene_map.predicted]))
    own = colour_range(gene_map.predicted)
    pictures = {} if gene_map.thumbnail is None else {"Tissue and spots": _tissue(gene_map, field)}
    for caption, values, limits in (
        ("Measured", gene_map.measured, shared),
        ("Predicted, same colours", gene_map.predicted, shared),
        ("Predicted, own colours", gene_map.predicted, own),
    ):
        pictures[caption] = _spots(gene_map.center_um, values, field, limits=limits, unit=unit)
    return pictures


def spot_spacing_um(center_um: Floats) -> float:
    """Return the median distance of a spot to its nearest neighbour; 100 um for a single spot.

    Parameters
    ----------
    center_um
        Of shape (n, 2).
    """
    from scipy.spatial import cKDTree

    if len(center_um) < 2:
        return DEFAULT_SPOT_UM
    distances, _ = cKDTree(center_um).query(center_um, k=2)  # (n, 2), the first is the spot itself
    return float(np.median(distances[:, 1])) or DEFAULT_SPOT_UM


def shown_field(center_um: Floats) -> MapFrame:
    """Return the rectangle round all spots, a spot's distance wider on each side, with a strip for the scale bar.

    It is widened where its aspect would not fit a page.

    Parameters
    ----------
    center_um
        Of shape (n, 2).
    """
    margin = spot_spacing_um(center_um)
    low, high = center_um.min(axis=0) - margin, center_um.max(axis=0) + margin
    width, height = (float(side) for side in high - low)
    shown_width = max(width, height / ASPECT_LIMITS[1])
    shown_height = max(height, width * ASPECT_LIMITS[0])
    return MapFrame(
        left=float(low[0]) - (shown_width - width) / 2,
        top=float(low[1]) - (shown_height - height) / 2,
        width=shown_width,
        height=shown_height + SCALE_STRIP * shown_width,
    )


def scale_bar_um(width_um: float) -> float:
    """Return a length of 1, 2 or 5 times a power of ten, between a tenth and a quarter of the width."""
    target = width_um / 4
    power = 10.0 ** math.floor(math.log10(target))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= target * (1 + 1e-9))


def colour_range(values: Floats) -> tuple[float, float]:
    """Return the 1st and 99th percentile of the finite values, set a little apart where they are one.

    Parameters
    ----------
    values
        Of shape (n,); NaN is left out.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, COLOUR_PERCENTILES))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _spots(center_um: Floats, values: Floats, field: MapFrame, *, limits: tuple[float, float], unit: str) -> str:
    """Draw one value per spot as filled circles, with a colour bar below."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    figure, axes = _figure(field, below_inch=BAR_HEIGHT_INCH)
    spots = _circles(center_um, axes, linewidths=0)
    spots.set(cmap=colormaps[COLOUR_MAP].with_extremes(bad=NO_VALUE_COLOUR), norm=Normalize(*limits))
    spots.set_array(np.ma.masked_invalid(values))
    axes.add_collection(spots)
    _scale_bar(axes, field, boxed=False)
    share = BAR_HEIGHT_INCH / figure.get_size_inches()[1]
    bar = figure.colorbar(spots, cax=figure.add_axes((0.08, share * 0.7, 0.84, share * 0.16)), orientation="horizontal")
    ticks = [limits[0], sum(limits) / 2, limits[1]]
    bar.set_ticks(ticks, labels=[score_text(value) for value in ticks])
    bar.ax.tick_params(length=2, labelsize=8, colors=INK)
    bar.set_label(unit, fontsize=8, color=INK, labelpad=1)
    bar.outline.set_visible(False)
    return _data_uri(figure, "png")


def _circles(center_um: Floats, axes: Any, **style: Any) -> Any:
    """Make a circle per spot whose size is in um on the axes, so that it keeps its proportion to the tissue."""
    from matplotlib.collections import EllipseCollection

    diameter = np.full(len(center_um), SPOT_SHARE * spot_spacing_um(center_um))
    turned = np.zeros(len(center_um))
    return EllipseCollection(
        diameter, diameter, turned, units="xy", offsets=center_um, offset_transform=axes.transData, **style
    )


def _tissue(gene_map: GeneMap, field: MapFrame) -> str:
    """Draw the thumbnail to the same scale as the maps, and the outline of every spot on it."""
    assert gene_map.thumbnail is not None
    assert gene_map.thumbnail_um_per_px is not None
    height_px, width_px = gene_map.thumbnail.shape[:2]
    um_per_px = gene_map.thumbnail_um_per_px
    figure, axes = _figure(field, below_inch=0.0)
    extent = (0.0, width_px * um_per_px, height_px * um_per_px, 0.0)
    axes.imshow(gene_map.thumbnail, extent=extent, interpolation="antialiased", aspect="auto")
    for colour, width in OUTLINES:
        axes.add_collection(_circles(gene_map.center_um, axes, facecolors="none", edgecolors=colour, linewidths=width))
    axes.set(xlim=(field.left, field.left + field.width), ylim=(field.top + field.height, field.top))
    _scale_bar(axes, field, boxed=True)
    return _data_uri(figure, "jpeg")  # a photograph is a fifth of the size that it has as PNG


def _figure(field: MapFrame, *, below_inch: float) -> tuple[Any, Any]:
    """Make a figure whose axes are the field, y downward as in the image, with room below."""
    from matplotlib.figure import Figure

    map_inch = WIDTH_INCH * field.height / field.width
    whole_inch = map_inch + below_inch
    figure = Figure(figsize=(WIDTH_INCH, whole_inch), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.0, below_inch / whole_inch, 1.0, map_inch / whole_inch))
    axes.set(xlim=(field.left, field.left + field.width), ylim=(field.top + field.height, field.top))
    axes.set_axis_off()
    return figure, axes


def _scale_bar(axes: Any, field: MapFrame, *, boxed: bool) -> None:
    """Draw a bar of a round length in the lower left corner; on a photograph with white behind it."""
    length = scale_bar_um(field.width)
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    left, bottom = field.left + 0.03 * field.width, field.top + field.height - 0.03 * field.width
    back = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85} if boxed else None
    if boxed:
        axes.plot([left, left + length], [bottom, bottom], color="white", linewidth=6, solid_capstyle="projecting")
    axes.plot([left, left + length], [bottom, bottom], color=INK, linewidth=2.5, solid_capstyle="butt")
    middle = left + length / 2
    axes.text(
        middle,
        bottom - 0.025 * field.width,
        words,
        ha="center",
        va="bottom",
        fontsize=8,
        color=INK,
        bbox=back,
    )


def _data_uri(figure: Any, kind: str) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without the software's name the same map gives the same bytes under every release of matplotlib's metadata.
    options = {"metadata": {"Software": None}} if kind == "png" else {"pil_kwargs": {"quality": 85}}
    figure.savefig(buffer, format=kind, dpi=DPI, facecolor="white", **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
