"""The score plot: folds, score and interval of each row, the best control as a shaded field, the ceiling as a line.

Each row of the leaderboard holds its strip of the plot, an inline SVG of full width in which places are per cent and
sizes are pixels. So dots and letters keep their size on a phone and on paper, which one scaled picture would not, and a
dot says its fold and score when pointed at, without a script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from ..comparison.comparison import HeadDetail
from ..comparison.numbers import number, range_text, score_text
from ..protocols.protocol import HEADLINE_FIELD
from .leaderboard import Leaderboard, Row
from .page import escaped

# Room beside the outermost value, as a share of the span.
PADDING = 0.06
MAX_STEPS = 5
CEILING_NAMES = {"ceiling": "ceiling of counting", "other-genes": "what a spot's other genes say"}


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`."""

    low: float
    high: float

    def percent(self, value: float) -> str:
        """Return the place of a value on the axis."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    @property
    def step(self) -> float:
        """The distance of ticks: 1, 2 or 5 times a power of ten, for six ticks at most."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / MAX_STEPS))
        return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= MAX_STEPS)

    @property
    def ticks(self) -> list[tuple[int, float]]:
        """The ticks: how many steps from zero, and where."""
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [(index, index * self.step) for index in range(first, last + 1)]

    @property
    def decimals(self) -> int:
        """How many decimals tell the ticks apart, two at least."""
        return max(2, -math.floor(math.log10(self.step)))


def score_strips(standing: Leaderboard) -> tuple[dict[str, str], str] | None:
    """Return the marks of each row by its label and the axis below them, as HTML; None where nothing was scored.

    All strips share one axis, so that they are read as one plot down a column of the leaderboard.
    """
    rows = [row for row in standing.rows if row.score is not None or row.fold_range is not None]
    if not rows:
        return None
    ceiling = drawn_ceiling(standing)
    axis = score_axis(rows, also=ceiling.values())
    back = _floor(axis, standing.floor) + zero_line(axis)
    back += "".join(_level(axis, level, style) for style, level in ceiling.items())
    return {row.label: _strip(row, axis, back=back) for row in rows}, _axis_track(axis)


def drawn_ceiling(standing: Leaderboard) -> dict[str, float]:
    """Return the lines above the scores by their style: none where the ceiling is of another score than ranks."""
    if standing.ceiling is None or standing.score != HEADLINE_FIELD:
        return {}
    levels = {"ceiling": standing.ceiling.counting_mean, "other-genes": standing.ceiling.other_genes_mean}
    return {style: level for style, level in levels.items() if math.isfinite(level)}


def score_axis(rows: Sequence[Row], *, also: Iterable[float] = ()) -> Axis:
    """Return an axis that holds every mean, fold and interval, and zero.

    Parameters
    ----------
    rows
        One of them at least has a score.
    also
        Other values to hold.
    """
    values = [0.0, *also]
    for row in rows:
        values += [score for score in (row.score, *row.fold_scores.values()) if score is not None]
        values += row.interval or ()
    return axis_of(values)


def axis_of(values: Sequence[float]) -> Axis:
    """Return an axis that holds all values with room beside, one at least."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return Axis(low - PADDING * span, high + PADDING * span)


def plot_row(label: str, kind: str, marks: str, *, words: str, value: str) -> str:
    """Return one row of a plot: its label, its marks on the shared axis, and its value.

    Parameters
    ----------
    label, words, value
        Plain text; `words` is what a screen reader says of the marks.
    kind
        ``"head"``, ``"control"`` or ``"diagnostic"``.
    marks
        SVG.
    """
    return (
        f'<div class="plot-row {kind}"><div class="plot-label">{escaped(label)}</div>{_track(marks, words=words)}'
        f'<div class="plot-value">{escaped(value)}</div></div>'
    )


def _strip(row: Row, axis: Axis, *, back: str) -> str:
    """Draw folds below the mean, and the interval above both: no marker hides it."""
    marks = back
    for fold, score in row.fold_scores.items():
        if score is not None:
            marks += dot(axis.percent(score), f"{row.label}, fold {fold}: {score_text(score)}")
    marks += _mean(row, axis) + _interval(row, axis)
    return _track(marks, words=_in_words(row))


def _track(marks: str, *, words: str) -> str:
    return f'<div class="plot-track"><svg class="track" role="img" aria-label="{escaped(words)}">{marks}</svg></div>'


def _level(axis: Axis, level: float, style: str) -> str:
    at = axis.percent(level)
    return f'<line class="{style}" x1="{at}" x2="{at}" y1="0" y2="100%"/>'


def _floor(axis: Axis, floor: float | None) -> str:
    if floor is None:
        return ""
    at = axis.percent(floor)
    return (
        f'<rect class="floor" x="0" y="0" width="{at}" height="100%"/>'
        f'<line class="floor-edge" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
    )


def zero_line(axis: Axis) -> str:
    """Return the line at zero."""
    at = axis.percent(0.0)
    return f'<line class="zero" x1="{at}" x2="{at}" y1="0" y2="100%"/>'


def _interval(row: Row, axis: Axis) -> str:
    """Draw the interval in the ink of text, with end caps taller than any marker, so that it is seen over all."""
    if row.interval is None:
        return ""
    low, high = (axis.percent(value) for value in row.interval)
    ends = "".join(f'<line class="cap" x1="{at}" x2="{at}" y1="12%" y2="88%"/>' for at in (low, high))
    return f'<line class="interval" x1="{low}" x2="{high}" y1="50%" y2="50%"/>{ends}'


def dot(at: str, words: str) -> str:
    """Return a dot that says something when pointed at."""
    return f'<circle class="dot" cx="{at}" cy="50%" r="4"><title>{escaped(words)}</title></circle>'


def _mean(row: Row, axis: Axis) -> str:
    """Draw the score as a diamond for a head and a square for a control: shape tells them apart, not colour alone."""
    if row.score is None:
        return ""
    shape = "M0,-6.5 L5.5,0 L0,6.5 L-5.5,0 Z" if row.kind == "head" else "M-4.5,-4.5 H4.5 V4.5 H-4.5 Z"
    return (
        f'<svg class="anchor" x="{axis.percent(row.score)}" y="50%" overflow="visible">'
        f'<path class="mean" d="{shape}"><title>{escaped(_in_words(row))}</title></path></svg>'
    )


def axis_row(axis: Axis) -> str:
    """Return the row of ticks below a plot."""
    beside = '<div class="plot-label"></div>', '<div class="plot-value"></div>'
    return f'<div class="plot-row axis">{beside[0]}{_axis_track(axis)}{beside[1]}</div>'


def _axis_track(axis: Axis) -> str:
    labels = "".join(
        _tick(tick, axis.percent(tick), axis.decimals, between=index % 2 == 1) for index, tick in axis.ticks
    )
    line = '<line class="tick" x1="0" x2="100%" y1="0" y2="0"/>'
    return f'<div class="plot-track axis" aria-hidden="true"><svg class="track">{line}{labels}</svg></div>'


def _tick(value: float, at: str, decimals: int, *, between: bool) -> str:
    """Draw one tick; a phone leaves the labels between out."""
    style = "tick-label between" if between else "tick-label"
    return (
        f'<line class="tick" x1="{at}" x2="{at}" y1="0" y2="5"/>'
        f'<text class="{style}" x="{at}" y="19">{value + 0.0:.{decimals}f}</text>'
    )


def score_legend(standing: Leaderboard) -> str:
    """Return what the marks of the strips are, as HTML."""
    entries = ['<span class="key head">◆ head</span>']
    if standing.controls:
        entries.append('<span class="key control">■ control</span>')
    if standing.diagnostics:
        entries.append('<span class="key diagnostic">■ diagnostic</span>')
    entries.append('<span class="key">● one fold</span>')
    if any(row.interval for row in standing.rows):
        entries.append('<span class="key">├─┤ 95 % interval over patients</span>')
    if standing.floor is not None:
        entries.append('<span class="key"><span class="floor-swatch"></span> up to the best control</span>')
    entries += [
        f'<span class="key"><span class="line-swatch {style}"></span> {CEILING_NAMES[style]} {score_text(level)}</span>'
        for style, level in drawn_ceiling(standing).items()
    ]
    return f'<p class="legend">{" ".join(entries)}</p>'


def _in_words(row: Row) -> str:
    words = f"{row.label}: score {score_text(row.score)}"
    if row.interval is not None:
        words += f", 95 % interval {range_text(*row.interval)}"
    elif row.fold_range is not None:
        words += f", folds {range_text(*row.fold_range)}"
    return words


PERCENTILES = (5, 25, 50, 75, 95)
VALUE_KEY = '<span class="key">on the right the within-slide PCC, averaged over test slides</span>'
GENE_LEGEND = (
    '<p class="legend"><span class="key">▬ half of the genes</span> <span class="key">― 5th to 95th percentile</span> '
    f'<span class="key">┃ median gene</span> {VALUE_KEY}</p>'
)
SLIDE_KEY = "● one test slide, mean over genes; its name when pointed at"
SLIDE_LEGEND = f'<p class="legend"><span class="key">{SLIDE_KEY}</span> {VALUE_KEY}</p>'


def gene_plot(standing: Leaderboard) -> str:
    """Return the spread over genes of each row's within-slide Pearson, as HTML; nothing where there is none."""
    return _plot(standing, lambda detail: detail.gene_pcc, _box, GENE_LEGEND)


def slide_plot(standing: Leaderboard) -> str:
    """Return the score of each row on each test slide, as HTML; nothing where there is none."""
    return _plot(standing, lambda detail: detail.slide_pcc, _dots, SLIDE_LEGEND)


def _plot(
    standing: Leaderboard,
    values_of: Callable[[HeadDetail], Floats],
    draw: Callable[[Row, HeadDetail, Axis], str],
    legend: str,
) -> str:
    rows = [(row, standing.details[row.label]) for row in standing.rows if row.label in standing.details]
    rows = [(row, detail) for row, detail in rows if np.isfinite(values_of(detail)).any()]
    if not rows:
        return ""
    axis = axis_of([0.0, *(float(v) for _, detail in rows for v in values_of(detail) if np.isfinite(v))])
    lines = "".join(draw(row, detail, axis) for row, detail in rows)
    return f'<div class="plot">{lines}{axis_row(axis)}</div>{legend}'


def _box(row: Row, detail: HeadDetail, axis: Axis) -> str:
    """Draw a box from quartile to quartile, a line from the 5th to the 95th percentile, a mark at the median."""
    levels = _percentiles(detail.gene_pcc)
    low, first, middle, third, high = (axis.percent(level) for level in levels)
    width = f"{float(third.rstrip('%')) - float(first.rstrip('%')):.2f}%"
    marks = zero_line(axis) + f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    marks += f'<rect class="box-of-half" x="{first}" width="{width}" y="25%" height="50%"/>'
    marks += f'<line class="median" x1="{middle}" x2="{middle}" y1="15%" y2="85%"/>'
    words = (
        f"{row.label}: median gene {score_text(levels[2])}, half of the genes from {score_text(levels[1])} to "
        f"{score_text(levels[3])}, 5th to 95th percentile {score_text(levels[0])} to {score_text(levels[4])}"
    )
    return plot_row(row.label, row.kind, marks, words=words, value=_value(row))


def _dots(row: Row, detail: HeadDetail, axis: Axis) -> str:
    known = [
        (slide, float(pcc)) for slide, pcc in zip(detail.slides, detail.slide_pcc, strict=True) if np.isfinite(pcc)
    ]
    marks = zero_line(axis)
    for slide, pcc in known:
        marks += dot(axis.percent(pcc), f"{row.label}, slide {slide}: {score_text(pcc)}")
    (worst, lowest), (best, highest) = (end(known, key=lambda pair: pair[1]) for end in (min, max))
    words = (
        f"{row.label}: {len(known)} slides, lowest {worst} {score_text(lowest)}, highest {best} {score_text(highest)}"
    )
    return plot_row(row.label, row.kind, marks, words=words, value=_value(row))


def _value(row: Row) -> str:
    """The same number in every plot of a row, as in the table of scores."""
    return score_text(number(row.aggregate, HEADLINE_FIELD))


def _percentiles(values: Floats) -> Sequence[float]:
    return [float(level) for level in np.percentile(values[np.isfinite(values)], PERCENTILES)]
