"""A map as a picture: the tissue beside the same field with one value a spot, a scale bar in um, and a colour bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...store.arrays import Floats
from ...store.atomic import atomic_path
from ..evaluation.report_plots import COLOUR_MAP, INK, NO_VALUE_COLOUR, colour_range, scale_bar_um
from .marks import mark_of
from .slide_map import SlideMap

PANEL_INCH, BAR_INCH, TITLE_INCH, GAP_INCH, EDGE_INCH = 4.6, 0.62, 0.42, 0.15, 0.12
DPI = 200
STRONG, FAINT = 0.9, 0.5
"""Opacity of a value, and of one that is flagged: there the tissue shows through."""

UNFAMILIAR_MAP = "magma"


@dataclass(frozen=True)
class _Field:
    """The rectangle that is shown, in um."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def around(cls, slide: SlideMap) -> _Field:
        margin, corner = 2 * slide.shape.side_um, slide.mpp * np.array([slide.width_px, slide.height_px])
        low = np.maximum(slide.center_um.min(axis=0) - margin, np.minimum(slide.center_um.min(axis=0), 0.0))
        high = np.minimum(slide.center_um.max(axis=0) + margin, np.maximum(slide.center_um.max(axis=0), corner))
        side = high - low
        # The scale bar needs a few tiles' room, and no panel is more than three times as high as wide.
        wide, high_ = max(float(side[0]), float(side[1]) / 3), max(float(side[1]), float(side[0]) / 3)
        middle = (low + high) / 2
        return cls(float(middle[0]) - wide / 2, float(middle[1]) - high_ / 2, wide, high_ + 0.08 * wide)


def write_gene_map(path: Path, slide: SlideMap, gene: str) -> None:
    """Draw one gene; flagged spots are faint, and a line says how many they are.

    Parameters
    ----------
    path
        A `.png`.
    """
    values = slide.values[gene]
    words = f"{slide.slide_id}: {gene} as predicted by {slide.head}"
    _write(path, slide, values, limits=colour_range(values), title=words, label=slide.target, colours=COLOUR_MAP)


def write_familiarity_map(path: Path, slide: SlideMap) -> None:
    """Draw the share of training rows that lie nearer: where it is near 1, the maps are not to be trusted."""
    words = f"{slide.slide_id}: distance to the training data"
    label = "share of training spots that lie nearer to the rest of the cohort"
    _write(path, slide, slide.unfamiliar, limits=(0.0, 1.0), title=words, label=label, colours=UNFAMILIAR_MAP)


def _write(
    path: Path,
    slide: SlideMap,
    values: Floats,
    *,
    limits: tuple[float, float],
    title: str,
    label: str,
    colours: str,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    field = _Field.around(slide)
    figure, panels = _panels(field, beside=slide.thumbnail is not None)
    for axes in panels:
        _tissue(axes, slide)
        axes.set(xlim=(field.left, field.left + field.width), ylim=(field.top + field.height, field.top))
        _scale_bar(axes, field)
    spots = _spots(panels[-1], slide, values, limits=limits, colours=colours)
    _colour_bar(figure, panels[-1], spots, label)
    flagged = int(slide.flagged.sum())
    faint = " and drawn faint" if flagged else ""
    _words(figure, title, f"{flagged} of {len(values)} are flagged as unlike the training data{faint}")
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        # Without the software's name a map has the same bytes under every release of matplotlib's metadata.
        words = {"Software": None, **mark_of(slide)}
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white", metadata=words)


def _panels(field: _Field, *, beside: bool) -> tuple[Any, list[Any]]:
    """One panel, or the tissue and the map side by side, with room for words above and a bar below."""
    from matplotlib.figure import Figure

    count, high = 1 + beside, PANEL_INCH * field.height / field.width
    wide = 2 * EDGE_INCH + count * PANEL_INCH + (count - 1) * GAP_INCH
    tall = high + BAR_INCH + TITLE_INCH
    figure = Figure(figsize=(wide, tall), dpi=DPI, facecolor="white")
    panels = []
    for number in range(count):
        left = (EDGE_INCH + number * (PANEL_INCH + GAP_INCH)) / wide
        axes = figure.add_axes((left, BAR_INCH / tall, PANEL_INCH / wide, high / tall))
        axes.set_axis_off()
        panels.append(axes)
    return figure, panels


def _tissue(axes: Any, slide: SlideMap) -> None:
    """The thumbnail in its place."""
    if slide.thumbnail is None:
        return
    extent = (0.0, slide.width_px * slide.mpp, slide.height_px * slide.mpp, 0.0)
    axes.imshow(slide.thumbnail, extent=extent, interpolation="antialiased", aspect="auto")


def _spots(axes: Any, slide: SlideMap, values: Floats, *, limits: tuple[float, float], colours: str) -> Any:
    """Squares or circles of true size."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    outlines = slide.center_um[:, None] + slide.shape.outline()[None, :-1]
    shades = colormaps[colours].with_extremes(bad=NO_VALUE_COLOUR)
    spots = PolyCollection(list(outlines), cmap=shades, norm=Normalize(*limits), linewidths=0, antialiaseds=False)
    spots.set_array(np.ma.masked_invalid(values))
    spots.set_alpha(np.where(slide.flagged, FAINT, STRONG))
    axes.add_collection(spots, autolim=False)
    return spots


def _colour_bar(figure: Any, axes: Any, spots: Any, label: str) -> None:
    from matplotlib.cm import ScalarMappable

    box, tall = axes.get_position(), figure.get_size_inches()[1]
    place = (box.x0 + 0.03 * box.width, 0.40 / tall, 0.94 * box.width, 0.12 / tall)
    # A mappable of its own: the bar shows colours as they are, not as faint as a flagged spot's.
    shades = ScalarMappable(norm=spots.norm, cmap=spots.get_cmap())
    bar = figure.colorbar(shades, cax=figure.add_axes(place), orientation="horizontal")
    low, high = spots.norm.vmin, spots.norm.vmax
    ticks = [low, (low + high) / 2, high]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(length=2, labelsize=7, colors=INK)
    bar.set_label(label, fontsize=7, color=INK, labelpad=1)
    bar.outline.set_visible(False)


def _words(figure: Any, title: str, under: str) -> None:
    wide, tall = figure.get_size_inches()
    left = EDGE_INCH / wide
    figure.text(left, 1 - 0.08 / tall, title, ha="left", va="top", fontsize=9, color=INK)
    figure.text(left, 1 - 0.25 / tall, under, ha="left", va="top", fontsize=7, color=INK)


def _scale_bar(axes: Any, field: _Field) -> None:
    """A bar of a round length in the lower left corner, white behind it."""
    length = scale_bar_um(field.width)
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    left, bottom = field.left + 0.03 * field.width, field.top + field.height - 0.025 * field.width
    axes.plot([left, left + length], [bottom, bottom], color="white", linewidth=5, solid_capstyle="projecting")
    axes.plot([left, left + length], [bottom, bottom], color=INK, linewidth=2, solid_capstyle="butt")
    back = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    place = (left + length / 2, bottom - 0.02 * field.width)
    axes.text(*place, words, ha="center", va="bottom", fontsize=7, color=INK, bbox=back)
