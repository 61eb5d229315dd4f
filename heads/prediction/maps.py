"""A map as a picture: tissue, measured and predicted values in one field, with scale bar, colour bar and warnings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...store.arrays import Bools, Floats
from ...store.errors import HeadError
from ...store.files.atomic import atomic_path
from ...store.files.slide import SlideRecord
from ...store.naming import SPOTS
from ..report.maps import COLOUR_MAP, INK, NO_VALUE_COLOUR, colour_range, scale_bar_um
from .file import SpotShape
from .slide_map import Mark, MeasuredGenes, SlideMap, mark_of

PANEL_INCH, BAR_INCH, NAME_INCH, GAP_INCH, EDGE_INCH = 3.6, 0.66, 0.2, 0.15, 0.12
DPI = 200
TITLE, UNDER = (10, 0.19, 12), (7, 0.135, 19)
"""Points, inches a line and characters an inch of the title and of the lines below: they are broken in time."""

UNLIKE_MAP = "YlOrRd"
"""Runs from pale yellow, calm, to dark red, alarming, its lightness falling all the way."""

HATCH_INCH = 0.1
"""Distance of the lines over what is flagged. They are drawn over the colours, which stay those of the colour bar."""

SCALES = ("shared", "own")


@dataclass(frozen=True)
class _Field:
    """The rectangle that is shown, in um."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def around(cls, layers: Sequence[_Layer], record: SlideRecord) -> _Field:
        margin = 2 * max(layer.shape.side_um for layer in layers)
        corner = record.mpp * np.array([record.width_px, record.height_px])
        first = np.min([layer.center_um.min(axis=0) for layer in layers], axis=0)
        last = np.max([layer.center_um.max(axis=0) for layer in layers], axis=0)
        low = np.maximum(first - margin, np.minimum(first, 0.0))
        high = np.minimum(last + margin, np.maximum(last, corner))
        side = high - low
        # The scale bar needs a few tiles' room, and no panel is more than three times as high as wide.
        wide, high_ = max(float(side[0]), float(side[1]) / 3), max(float(side[1]), float(side[0]) / 3)
        middle = (low + high) / 2
        return cls(float(middle[0]) - wide / 2, float(middle[1]) - high_ / 2, wide, high_ + 0.08 * wide)


@dataclass(frozen=True)
class _Layer:
    """Values of one panel.

    Attributes
    ----------
    title
        Above the panel.
    values, hatched
        (n,), one a spot or tile; NaN is grey.
    """

    title: str
    center_um: Floats
    shape: SpotShape
    values: Floats
    hatched: Bools


def check_scale(scale: str) -> None:
    """Refuse a scale that there is not.

    Raises
    ------
    HeadError
        If it is neither "shared" nor "own".
    """
    if scale not in SCALES:
        msg = f"scale {scale!r}: choose shared (one colour bar for measured and predicted) or own (one for each)"
        raise HeadError(msg)


def map_mark(slide: SlideMap, *, scale: str) -> Mark:
    """The mark of a slide's pictures."""
    return mark_of(slide, slide.facts.overlap.words, scale, str(slide.facts.has_counts))


def write_gene_map(
    path: Path, slide: SlideMap, gene: str, *, measured: MeasuredGenes | None = None, scale: str = "shared"
) -> None:
    """Draw one gene, what was measured beside what is predicted; flagged spots are hatched.

    Parameters
    ----------
    path
        A `.png`.
    measured
        Of the slide, where it has counts.
    scale
        "shared": measured and predicted values have one colour bar; "own": each has its own.
    """
    facts, under = slide.facts, trust_words(slide)
    words = f"predicted by {facts.run['head']}"
    layers = [_Layer(words, slide.center_um, facts.shape, slide.values[gene], slide.flagged)]
    if measured is not None and gene in measured.values:
        values = measured.values[gene]
        words = "measured" if np.isfinite(values).all() else "measured (grey: no counts)"
        layers.insert(0, _Layer(words, measured.center_um, measured.shape, values, np.zeros(len(values), np.bool_)))
    elif measured is not None:
        under = f"{under} {gene}: {measured.lacking[gene]}."
    each = [colour_range(layer.values) for layer in layers]
    groups = [[layer] for layer in layers]
    if scale == "shared":
        known = [one for one, layer in zip(each, layers, strict=True) if np.isfinite(layer.values).any()] or each
        each, groups = [(min(low for low, _ in known), max(high for _, high in known))], [layers]
    bars = [_Bar(COLOUR_MAP, one, f"{gene}, {facts.unit}", over) for one, over in zip(each, groups, strict=True)]
    _write(path, slide, bars, title=f"{facts.slide.slide_id}: {gene}", under=under, mark=map_mark(slide, scale=scale))


def write_familiarity_map(path: Path, slide: SlideMap, mark: Mark) -> None:
    """Draw how far each spot lies from the training data: beyond the line in the bar, maps are not to be trusted.

    Parameters
    ----------
    path
        A `.png`.
    mark
        Of the pictures of the slide; see `map_mark`.
    """
    far, noun = slide.facts.flagged_from, _noun(slide)
    known = np.isfinite(far) and far > 0
    limits = (0.0, 2 * far if known else max(1.0, float(np.nanmax(slide.distance, initial=0.0))))
    label = "distance to the nearest training spots (SD of training features)"
    words = label + (f"\n{noun} beyond {far:.2g} (line) are flagged" if known else "")
    nothing = np.zeros(len(slide.distance), dtype=np.bool_)
    layer = _Layer("distance", slide.center_um, slide.facts.shape, slide.distance, nothing)
    bar = _Bar(UNLIKE_MAP, limits, words, over=[layer], line=far if known else None)
    title = f"{slide.facts.slide.slide_id}: distance to the training data"
    _write(path, slide, [bar], title=title, under=trust_words(slide, hatched=False), mark=mark)


def trust_words(slide: SlideMap, *, hatched: bool = True) -> str:
    """What is said of how far a map is to be trusted: whether the slide was trained on, and how much is unlike."""
    overlap, flagged, noun = slide.facts.overlap, int(slide.flagged.sum()), _noun(slide)
    words = overlap.words[0].upper() + overlap.words[1:]
    count = f"{flagged} of" if flagged < len(slide.flagged) else "All"
    some = f"{count} {len(slide.flagged)} {noun} are unlike the training data" + (" (hatched)" if hatched else "")
    if overlap.trained:
        so = "this is no test of a new patient" if hatched else "small distances say nothing of a new patient"
        return f"{words}: {so}." + (f" {some}." if flagged else "")
    unlike = f"{some}." if flagged else f"None of {len(slide.flagged)} {noun} is flagged as unlike the training data."
    return unlike if overlap.kind == "none" else f"{unlike} {words}."


def _noun(slide: SlideMap) -> str:
    return "spots" if slide.facts.patch_set == SPOTS else "tiles"


@dataclass(frozen=True)
class _Bar:
    """A colour bar and the panels that it is of.

    Attributes
    ----------
    limits
        Values at its ends.
    line
        A value that is marked.
    """

    colours: str
    limits: tuple[float, float]
    label: str
    over: Sequence[_Layer]
    line: float | None = None

    @property
    def extend(self) -> str:
        """Which ends have an arrow, as values lie beyond them."""
        values = np.concatenate([layer.values for layer in self.over])
        below, above = bool((values < self.limits[0]).any()), bool((values > self.limits[1]).any())
        return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")


def _write(path: Path, slide: SlideMap, bars: Sequence[_Bar], *, title: str, under: str, mark: Mark) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    layers = [layer for bar in bars for layer in bar.over]
    field = _Field.around(layers, slide.facts.slide)
    names = ["tissue"] * (slide.facts.thumbnail is not None) + [layer.title for layer in layers]
    figure, panels = _panels(field, names, title=title, under=under)
    for axes in panels:
        axes.set(xlim=(field.left, field.left + field.width), ylim=(field.top + field.height, field.top))
    if slide.facts.thumbnail is not None:
        _tissue(panels[0], slide)
    value_panels = panels[len(panels) - len(layers) :]
    for bar in bars:
        mine, value_panels = value_panels[: len(bar.over)], value_panels[len(bar.over) :]
        for axes, layer in zip(mine, bar.over, strict=True):
            _spots(axes, layer, bar)
            _hatch(axes, layer, field)
        _colour_bar(figure, mine, bar)
    for axes in panels:
        _scale_bar(axes, field)
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        # Without the software's name a map has the same bytes under every release of matplotlib's metadata.
        figure.savefig(temporary, format="png", dpi=DPI, facecolor="white", metadata={"Software": None, **mark})


def _panels(field: _Field, names: Sequence[str], *, title: str, under: str) -> tuple[Any, list[Any]]:
    """Panels side by side, a name above each, title and lines on top, and room for a bar below."""
    from matplotlib.figure import Figure

    high = PANEL_INCH * field.height / field.width
    wide = 2 * EDGE_INCH + len(names) * PANEL_INCH + (len(names) - 1) * GAP_INCH
    lines = []
    for text, (points, inch, an_inch) in ((title, TITLE), (under, UNDER)):
        room = int((wide - 2 * EDGE_INCH) * an_inch)
        lines += [(line, points, inch) for line in textwrap.wrap(text, room, break_on_hyphens=False)]
    tall = BAR_INCH + high + NAME_INCH + sum(inch for _, _, inch in lines) + EDGE_INCH
    figure = Figure(figsize=(wide, tall), dpi=DPI, facecolor="white")
    top = tall - 0.08
    for line, points, inch in lines:
        figure.text(EDGE_INCH / wide, top / tall, line, ha="left", va="top", fontsize=points, color=INK)
        top -= inch
    panels = []
    for number, name in enumerate(names):
        left = (EDGE_INCH + number * (PANEL_INCH + GAP_INCH)) / wide
        axes = figure.add_axes((left, BAR_INCH / tall, PANEL_INCH / wide, high / tall))
        axes.set_axis_off()
        figure.text(left, (BAR_INCH + high + 0.04) / tall, name, ha="left", va="bottom", fontsize=8, color=INK)
        panels.append(axes)
    return figure, panels


def _tissue(axes: Any, slide: SlideMap) -> None:
    """The thumbnail in its place."""
    record = slide.facts.slide
    extent = (0.0, record.width_px * record.mpp, record.height_px * record.mpp, 0.0)
    axes.imshow(slide.facts.thumbnail, extent=extent, interpolation="antialiased", aspect="auto")


def _spots(axes: Any, layer: _Layer, bar: _Bar) -> None:
    """Squares or circles of true size, in the colours of the bar and in no others."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    shades = colormaps[bar.colours].with_extremes(bad=NO_VALUE_COLOUR)
    outlines = layer.center_um[:, None] + layer.shape.outline()[None, :-1]
    spots = PolyCollection(list(outlines), cmap=shades, norm=Normalize(*bar.limits), linewidths=0, antialiaseds=False)
    spots.set_array(np.ma.masked_invalid(layer.values))
    axes.add_collection(spots, autolim=False)


def _hatch(axes: Any, layer: _Layer, field: _Field) -> None:
    """Dark lines on white ones over flagged spots, to be seen on every colour and at every size of a spot."""
    from matplotlib.collections import LineCollection
    from matplotlib.path import Path as Outline

    if not layer.hatched.any():
        return
    step = HATCH_INCH / PANEL_INCH * field.width
    starts = np.arange(0.0, field.width + field.height, step)
    ends = [[(field.left + at, field.top), (field.left + at - field.height, field.top + field.height)] for at in starts]
    shapes = layer.center_um[layer.hatched][:, None] + layer.shape.outline()[None]
    inside = Outline.make_compound_path(*(Outline(one, closed=True) for one in shapes))
    for width, colour in ((1.2, "white"), (0.5, INK)):
        lines = LineCollection(ends, colors=colour, linewidths=width, antialiaseds=False)
        axes.add_collection(lines, autolim=False)
        lines.set_clip_path(inside, axes.transData)


def _colour_bar(figure: Any, panels: Sequence[Any], bar: _Bar) -> None:
    """One bar below all panels that it is of."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    left, right, tall = panels[0].get_position().x0, panels[-1].get_position().x1, figure.get_size_inches()[1]
    margin = 0.03 * (right - left)
    axes = figure.add_axes((left + margin, 0.46 / tall, right - left - 2 * margin, 0.12 / tall))
    shades = ScalarMappable(norm=Normalize(*bar.limits), cmap=colormaps[bar.colours])
    drawn = figure.colorbar(
        shades, cax=axes, orientation="horizontal", extend=bar.extend, extendfrac=0.03, ticks=MaxNLocator(5)
    )
    drawn.ax.tick_params(length=2, labelsize=7, colors=INK)
    drawn.set_label(bar.label, fontsize=7, color=INK, labelpad=1)
    drawn.outline.set_visible(False)
    if bar.line is not None:
        drawn.ax.axvline(bar.line, color=INK, linewidth=1.2)


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
