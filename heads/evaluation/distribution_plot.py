"""How the score spreads over genes and over slides: a row per head, on one axis, in the manner of the score plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...store.arrays import Floats
from .detail import HeadDetail
from .leaderboard_rows import HEADLINE_FIELD, Row
from .numerals import number, score_text
from .score_plot import Axis, axis_of, axis_row, dot, plot_row, zero_line
from .standings import Standing

PERCENTILES = (5, 25, 50, 75, 95)
VALUE_KEY = '<span class="key">on the right the within-slide PCC, averaged over test slides</span>'
GENE_LEGEND = (
    '<p class="legend"><span class="key">▬ half of the genes</span> <span class="key">― 5th to 95th percentile</span> '
    f'<span class="key">┃ median gene</span> {VALUE_KEY}</p>'
)
SLIDE_KEY = "● one test slide, mean over genes; its name when pointed at"
SLIDE_LEGEND = f'<p class="legend"><span class="key">{SLIDE_KEY}</span> {VALUE_KEY}</p>'


def gene_plot(standing: Standing) -> str:
    """Return the spread over genes of each row's within-slide Pearson, as HTML; nothing where there is none."""
    return _plot(standing, lambda detail: detail.gene_pcc, _box, GENE_LEGEND)


def slide_plot(standing: Standing) -> str:
    """Return the score of each row on each test slide, as HTML; nothing where there is none."""
    return _plot(standing, lambda detail: detail.slide_pcc, _dots, SLIDE_LEGEND)


def _plot(
    standing: Standing,
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
