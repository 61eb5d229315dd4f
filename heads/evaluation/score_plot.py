"""The score plot: a dot per fold, a mark for the mean, the best control as a shaded floor.

Each row is an inline SVG of full width in which places are per cent and sizes are pixels. So dots and letters keep
their size on a phone and on paper, which one scaled picture would not, and a dot says its fold and score when pointed
at, without a script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .leaderboard_rows import Row
from .numerals import range_text, score_text
from .report_page import escaped
from .standings import Standing

# Room beside the outermost value, as a share of the span.
PADDING = 0.06
MAX_STEPS = 7


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
    axis = score_axis(rows)
    lines = "".join(_row(row, axis, floor=standing.floor) for row in rows)
    return f'<div class="plot">{lines}{_axis_row(axis)}</div>{_legend(standing)}'


def score_axis(rows: Sequence[Row]) -> Axis:
    """Return an axis that holds every mean, fold and interval, and zero.

    Parameters
    ----------
    rows
        One of them at least has a score.
    """
    values = [0.0]
    for row in rows:
        values += [score for score in (row.score, *row.fold_scores.values()) if score is not None]
        values += row.interval or ()
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return Axis(low - PADDING * span, high + PADDING * span)


def _row(row: Row, axis: Axis, *, floor: float | None) -> str:
    marks = _floor(axis, floor) + _zero(axis) + _interval(row, axis)
    for fold, score in row.fold_scores.items():
        if score is not None:
            marks += _dot(axis.percent(score), f"{row.label}, fold {fold}: {score_text(score)}")
    marks += _mean(row, axis)
    return (
        f'<div class="plot-row {row.kind}"><div class="plot-label">{escaped(row.label)}</div>'
        '<div class="plot-track">'
        f'<svg class="track" role="img" aria-label="{escaped(_in_words(row))}">{marks}</svg></div>'
        f'<div class="plot-value">{score_text(row.score)}</div></div>'
    )


def _floor(axis: Axis, floor: float | None) -> str:
    if floor is None:
        return ""
    at = axis.percent(floor)
    return (
        f'<rect class="floor" x="0" y="0" width="{at}" height="100%"/>'
        f'<line class="floor-edge" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
    )


def _zero(axis: Axis) -> str:
    at = axis.percent(0.0)
    return f'<line class="zero" x1="{at}" x2="{at}" y1="0" y2="100%"/>'


def _interval(row: Row, axis: Axis) -> str:
    if row.interval is None:
        return ""
    low, high = (axis.percent(value) for value in row.interval)
    return f'<line class="interval" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'


def _dot(at: str, words: str) -> str:
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


def _axis_row(axis: Axis) -> str:
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
    return f'<p class="legend">{" ".join(entries)}</p>'


def _in_words(row: Row) -> str:
    words = f"{row.label}: mean {score_text(row.score)}"
    if row.interval is not None:
        words += f", 95 % interval {range_text(*row.interval)}"
    elif row.fold_range is not None:
        words += f", folds {range_text(*row.fold_range)}"
    return words
