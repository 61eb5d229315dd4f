"""The leaderboard in the terminal, as rich tables; printing them is the caller's."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from ..comparison.comparison import Comparison
from ..comparison.numbers import number, range_text, score_text, seconds_text
from .conclusion import verdict
from .leaderboard import Leaderboard, Row, standings
from .words import short_name

# From this many columns of text on all scores fit; below, those that the reader needs first.
WIDE = 104
NARROW_SCORES = ("pcc_slide_mean", "pcc_pooled", "pcc_heg50", "mse")
WIDE_SCORES = ("pcc_slide_mean", "pcc_slide_median", "pcc_pooled", "pcc_heg50", "pcc_hvg50", "mse")
GROUP_TITLES = {"control": "controls to exceed", "diagnostic": "diagnostics"}


def leaderboard_tables(comparison: Comparison, *, width: int = 80) -> tuple[Table, ...]:
    """Return one table for each protocol, backbone and set of views, its verdict as caption.

    Rows are heads, best first, then controls, then diagnostics. Names are taken literally: a head called ``[red]`` is
    shown so.

    Parameters
    ----------
    comparison
        What `compare` returned.
    width
        Characters in a line of the terminal (`rich.console.Console.width`); from 104 on all scores are shown.
    """
    scores = WIDE_SCORES if width >= WIDE else NARROW_SCORES
    return tuple(_table(standing, scores) for standing in standings(comparison))


def _table(standing: Leaderboard, shown: tuple[str, ...]) -> Table:
    said = verdict(standing)
    scores = tuple(field for field in shown if field != standing.score)
    table = Table(
        title=Text(f"{standing.protocol_name} · {standing.backbone} · {standing.views}", style="bold"),
        caption=Text("\n".join((said.sentence, *said.notes)), justify="left"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("head", overflow="fold", min_width=12)
    intervals = any(row.interval for row in standing.rows)
    spread = "95 % interval" if intervals else "folds"
    titles = [short_name(standing.score), spread, *map(short_name, scores), "fit CPU"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for rows in (standing.heads, standing.controls, standing.diagnostics):
        group = GROUP_TITLES.get(rows[0].kind) if rows else None
        if group is not None:
            table.add_row(Text(group, style="italic"))
        for row in rows:
            table.add_row(*_cells(row, scores, intervals=intervals), style=_style(row, standing))
        table.add_section()
    return table


def _cells(row: Row, scores: tuple[str, ...], *, intervals: bool) -> list[Text]:
    """A row's cells; the spread is the interval in all rows or the range of folds in all."""
    spread = (row.interval if intervals else row.fold_range) or (None, None)
    cells = [row.label, score_text(row.score), range_text(*spread)]
    cells += [score_text(number(row.aggregate, field)) for field in scores]
    cells.append(seconds_text(number(row.aggregate, "fit_cpu_seconds")))
    return [Text(cell) for cell in cells]


def _style(row: Row, standing: Leaderboard) -> str:
    if row.kind != "head":
        return "dim"
    return "bold" if row is standing.heads[0] else ""
