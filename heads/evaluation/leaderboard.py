"""The leaderboard in the terminal, as rich tables; printing them is the caller's."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from .comparison import Comparison
from .leaderboard_rows import Row
from .numerals import number, range_text, score_text, seconds_text
from .standings import Standing, standings
from .verdict import verdict

CONTROL_STYLE = "dim"
BEST_STYLE = "bold"

# Title and field of the scores beside the headline.
SCORES = (("median", "pcc_slide_median"), ("pooled", "pcc_pooled"), ("HEG-50", "pcc_heg50"), ("HVG-50", "pcc_hvg50"))


def leaderboard_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Return one table for each protocol, backbone and set of views, its verdict as caption.

    Rows are heads, best first, then controls, then diagnostics, with a line between. Names are taken literally: a
    slide or head called ``[red]`` is shown so.
    """
    return tuple(_table(standing) for standing in standings(comparison))


def _table(standing: Standing) -> Table:
    said = verdict(standing)
    caption = Text("\n".join((said.sentence, *said.notes)), justify="left")
    table = Table(
        title=Text(f"{standing.protocol_name} · {standing.backbone} · {standing.views}"),
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("head", overflow="fold", min_width=8)
    table.add_column("PCC", justify="right", no_wrap=True)
    table.add_column(_spread_title(standing), justify="right", no_wrap=True)
    for title, _ in SCORES:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("MSE", justify="right", no_wrap=True)
    table.add_column("fit", justify="right", no_wrap=True)
    for rows in (standing.heads, standing.controls, standing.diagnostics):
        for row in rows:
            table.add_row(*_cells(row), style=_style(row, standing))
        table.add_section()
    return table


def _cells(row: Row) -> list[Text]:
    spread = row.interval or row.fold_range or (None, None)
    marks = {"head": "", "control": "control", "diagnostic": "diagnostic"}
    cells = [f"{row.label} ({marks[row.kind]})" if marks[row.kind] else row.label, score_text(row.score)]
    cells.append(range_text(*spread))
    cells += [score_text(number(row.aggregate, field)) for _, field in SCORES]
    cells.append(score_text(number(row.aggregate, "mse")))
    cells.append(seconds_text(number(row.aggregate, "fit_seconds")))
    return [Text(cell) for cell in cells]


def _spread_title(standing: Standing) -> str:
    return "95 % interval" if any(row.interval for row in standing.rows) else "folds"


def _style(row: Row, standing: Standing) -> str:
    if row.kind != "head":
        return CONTROL_STYLE
    return BEST_STYLE if row is standing.heads[0] else ""
