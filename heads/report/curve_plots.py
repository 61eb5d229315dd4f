"""Plots with two axes: genes sorted by score, and measured against predicted values.

Each is one inline SVG that scales as a whole, drawn with classes of the style sheet so that it follows light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from ..comparison.comparison import Calibration
from ..comparison.numbers import count_text, score_text
from .leaderboard import Leaderboard
from .page import escaped
from .score_plot import Axis, axis_of

LEFT, RIGHT, TOP, BOTTOM = 52.0, 18.0, 10.0, 40.0
MAX_HEADS = 3
# A curve of more points than the picture has pixels says no more.
MAX_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """Scores of all genes under a name; `style` is a class of the style sheet."""

    name: str
    style: str
    values: Floats


@dataclass(frozen=True)
class Frame:
    """A rectangle with two axes, in pixels of the picture's own scale."""

    width: float
    height: float
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point."""
        across = float(self.x.percent(x).rstrip("%")) / 100
        up = float(self.y.percent(y).rstrip("%")) / 100
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def points(self, xs: Floats, ys: Floats) -> str:
        """Return places as the attribute `points`."""
        return " ".join("{:.1f},{:.1f}".format(*self.at(float(x), float(y))) for x, y in zip(xs, ys, strict=True))


def gene_curves(standing: Leaderboard) -> str:
    """Return the genes of the best heads, the best control and the ceiling, each sorted, as HTML; nothing without."""
    curves = _curves(standing)
    if not curves:
        return ""
    frame = Frame(640.0, 300.0, Axis(0.0, 100.0), axis_of([0.0, *(float(v) for c in curves for v in c.values)]))
    marks = "".join(_curve(curve, frame) for curve in curves)
    words = "Genes sorted by score. " + " ".join(
        f"{curve.name}: from {score_text(float(curve.values[0]))} over a median of "
        f"{score_text(float(np.median(curve.values)))} down to {score_text(float(curve.values[-1]))}."
        for curve in curves
    )
    legend = " ".join(
        f'<span class="key"><span class="line-swatch {curve.style}"></span> {escaped(curve.name)}</span>'
        for curve in curves
    )
    axes = _axes(frame, x_title="share of genes, best first (%)", y_title="within-slide PCC", x_decimals=0)
    return f'{_picture(frame, axes + marks, words=words)}<p class="legend">{legend}</p>'


def calibration_plot(calibration: Calibration, *, title: str, words: str) -> str:
    """Return measured against predicted means of bins, the line of equality and the fitted slope, as an SVG."""
    both = [float(v) for side in (calibration.predicted, calibration.measured) for v in side]
    if not both:
        return ""
    axis = axis_of(both)
    frame = Frame(380.0, 340.0, axis, axis)
    marks = f'<polyline class="equal" points="{frame.points(*(np.array([axis.low, axis.high]),) * 2)}"/>'
    marks += f'<polyline class="bins" points="{frame.points(calibration.predicted, calibration.measured)}"/>'
    bins = zip(calibration.predicted, calibration.measured, calibration.values, strict=True)
    for predicted, measured, n in bins:
        x, y = frame.at(float(predicted), float(measured))
        said = f"predicted {score_text(predicted)}, measured {score_text(measured)}, {count_text(n)} values"
        marks += f'<circle class="bin" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escaped(said)}</title></circle>'
    axes = _axes(frame, x_title="predicted", y_title="measured")
    return f"<figure>{_picture(frame, axes + marks, words=words)}<figcaption>{escaped(title)}</figcaption></figure>"


def _curves(standing: Leaderboard) -> list[Curve]:
    """The ceiling above, then heads, then the best control; each sorted on its own, so that places are not one gene."""
    shown = [*standing.heads[:MAX_HEADS], *standing.controls[:1]]
    found = [
        Curve(row.label, f"curve-{row.kind}-{i}", standing.details[row.label].gene_pcc)
        for i, row in enumerate(shown)
        if row.label in standing.details
    ]
    if found and standing.ceiling is not None:
        found += [
            Curve("ceiling of counting", "ceiling", standing.ceiling.counting),
            Curve("what a spot's other genes say", "other-genes", standing.ceiling.other_genes),
        ]
    finite = [Curve(c.name, c.style, np.sort(c.values[np.isfinite(c.values)])[::-1]) for c in found]
    return [curve for curve in finite if len(curve.values)]


def _curve(curve: Curve, frame: Frame) -> str:
    n = len(curve.values)
    picked = np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(np.int64))
    share = 100.0 * (picked + 0.5) / n
    points = frame.points(share, curve.values[picked])
    return f'<polyline class="curve {curve.style}" points="{points}"><title>{escaped(curve.name)}</title></polyline>'


def _axes(frame: Frame, *, x_title: str, y_title: str, x_decimals: int | None = None) -> str:
    """Ticks, titles, and lines at zero where it is inside."""
    left, bottom = LEFT, frame.height - BOTTOM
    right, middle = frame.width - RIGHT, (TOP + frame.height - BOTTOM) / 2
    lines = f'<path class="frame" d="M{left},{TOP} V{bottom:.1f} H{right:.1f}"/>'
    for _, tick in frame.x.ticks:
        x, _ = frame.at(tick, frame.y.low)
        decimals = frame.x.decimals if x_decimals is None else x_decimals
        lines += f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 5:.1f}"/>'
        lines += f'<text class="tick-label" x="{x:.1f}" y="{bottom + 18:.1f}">{tick + 0.0:.{decimals}f}</text>'
    for _, tick in frame.y.ticks:
        _, y = frame.at(frame.x.low, tick)
        style = "zero" if abs(tick) < frame.y.step / 2 else "grid"
        lines += f'<line class="{style}" x1="{left}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        text = f"{tick + 0.0:.{frame.y.decimals}f}"
        lines += f'<text class="tick-label across" x="{left - 6}" y="{y + 4:.1f}">{text}</text>'
    lines += (
        f'<text class="tick-label" x="{(left + right) / 2:.1f}" y="{frame.height - 4:.1f}">{escaped(x_title)}</text>'
    )
    turned = f'transform="rotate(-90 12 {middle:.1f})"'
    return lines + f'<text class="tick-label" x="12" y="{middle:.1f}" {turned}>{escaped(y_title)}</text>'


def _picture(frame: Frame, marks: str, *, words: str) -> str:
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return f'<svg class="picture" viewBox="{box}" role="img" aria-label="{escaped(words)}">{marks}</svg>'


def slopes(standing: Leaderboard) -> Sequence[tuple[str, float, float]]:
    """Return label, slope within slides and slope of whole values of each row that has a calibration."""
    return [
        (row.label, standing.details[row.label].within.slope, standing.details[row.label].whole.slope)
        for row in standing.rows
        if row.label in standing.details
    ]
