"""The score plot: a dot per fold, a mark for the mean, the best control as a shaded floor, the ceiling as a line.

Each row is an inline SVG of full width in which places are per cent and sizes are pixels. So dots and letters keep
their size on a phone and on paper, which one scaled picture would not, and a dot says its fold and score when pointed
at, without a script.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .leaderboard_rows import HEADLINE_FIELD, Row
from .numerals import range_text, score_text
from .report_page import escaped
from .standings import Standing

# Room beside the outermost value, as a share of the span.
PADDING = 0.06
MAX_STEPS = 7
CEILING_NAMES = {"ceiling": "ceiling of counting", "other-genes": "told by a spot's other genes"}


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
        """The distance of ticks: 1, 2 or 5 times a power of ten, for eight ticks at most."""
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


def score_plot(standing: Standing) -> str:
    """Return the plot of one leaderboard as HTML; an empty string where nothing was scored."""
    rows = [row for row in standing.rows if row.score is not None or row.fold_range is not None]
    if not rows:
        return ""
    ceiling = drawn_ceiling(standing)
    axis = score_axis(rows, also=ceiling.values())
    back = _floor(axis, standing.floor) + zero_line(axis)
    back += "".join(_level(axis, level, style) for style, level in ceiling.items())
    lines = "".join(_row(row, axis, back=back) for row in rows)
    return f'<div class="plot">{lines}{axis_row(axis)}</div>{_legend(standing)}'


def drawn_ceiling(standing: Standing) -> dict[str, float]:
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
        f'<div class="plot-row {kind}"><div class="plot-label">{escaped(label)}</div>'
        '<div class="plot-track">'
        f'<svg class="track" role="img" aria-label="{escaped(words)}">{marks}</svg></div>'
        f'<div class="plot-value">{escaped(value)}</div></div>'
    )


def _row(row: Row, axis: Axis, *, back: str) -> str:
    marks = back + _interval(row, axis)
    for fold, score in row.fold_scores.items():
        if score is not None:
            marks += dot(axis.percent(score), f"{row.label}, fold {fold}: {score_text(score)}")
    marks += _mean(row, axis)
    return plot_row(row.label, row.kind, marks, words=_in_words(row), value=score_text(row.score))


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
    if row.interval is None:
        return ""
    low, high = (axis.percent(value) for value in row.interval)
    return f'<line class="interval" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'


def dot(at: str, words: str) -> str:
    """Return a dot that says something when pointed at."""
    return f'<circle class="dot" cx="{at}" cy="50%" r="4"><title>{escaped(words)}</title></circle>'


def _mean(row: Row, axis: Axis) -> str:
    """Draw the mean as a diamond for a head and a square for a control: shape tells them apart, not colour alone."""
    if row.score is None:
        return ""
    shape = "M0,-8 L7,0 L0,8 L-7,0 Z" if row.kind == "head" else "M-5,-5 H5 V5 H-5 Z"
    return (
        f'<svg class="anchor" x="{axis.percent(row.score)}" y="50%" overflow="visible">'
        f'<path class="mean" d="{shape}"><title>{escaped(_in_words(row))}</title></path></svg>'
    )


def axis_row(axis: Axis) -> str:
    """Return the row of ticks below a plot."""
    labels = "".join(
        _tick(tick, axis.percent(tick), axis.decimals, between=index % 2 == 1) for index, tick in axis.ticks
    )
    return (
        '<div class="plot-row axis" aria-hidden="true"><div class="plot-label"></div><div class="plot-track">'
        f'<svg class="track"><line class="tick" x1="0" x2="100%" y1="0" y2="0"/>{labels}</svg></div>'
        '<div class="plot-value"></div></div>'
    )


def _tick(value: float, at: str, decimals: int, *, between: bool) -> str:
    """Draw one tick; a phone leaves the labels between out."""
    style = "tick-label between" if between else "tick-label"
    return (
        f'<line class="tick" x1="{at}" x2="{at}" y1="0" y2="5"/>'
        f'<text class="{style}" x="{at}" y="19">{value + 0.0:.{decimals}f}</text>'
    )


def _legend(standing: Standing) -> str:
    entries = ['<span class="key head">◆ mean of a head</span>']
    if standing.controls:
        entries.append('<span class="key control">■ mean of a control</span>')
    if standing.diagnostics:
        entries.append('<span class="key diagnostic">■ diagnostic</span>')
    entries.append('<span class="key">● one fold</span>')
    if any(row.interval for row in standing.rows):
        entries.append('<span class="key">― 95 % interval over patients</span>')
    if standing.floor is not None:
        entries.append('<span class="key"><span class="floor-swatch"></span> up to the best control</span>')
    entries += [
        f'<span class="key"><span class="line-swatch {style}"></span> {CEILING_NAMES[style]} {score_text(level)}</span>'
        for style, level in drawn_ceiling(standing).items()
    ]
    return f'<p class="legend">{" ".join(entries)}</p>'


def _in_words(row: Row) -> str:
    words = f"{row.label}: mean {score_text(row.score)}"
    if row.interval is not None:
        words += f", 95 % interval {range_text(*row.interval)}"
    elif row.fold_range is not None:
        words += f", folds {range_text(*row.fold_range)}"
    return words
