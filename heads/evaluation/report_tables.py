"""The report's tables: the leaderboard, its folds and patients, the heads that were skipped."""

from __future__ import annotations

from collections.abc import Sequence

from .leaderboard_rows import Row, fold_names
from .numerals import count_text, number, plural, range_text, score_text, seconds_text
from .report_page import escaped
from .standings import Standing

# Title, field, and what a reader sees who points at the title.
SCORES = (
    ("median", "pcc_slide_median", "Mean over test slides of the median over genes of the within-slide Pearson"),
    ("pooled", "pcc_pooled", "Mean over genes of the Pearson over all test spots of a fold, slides mixed"),
    ("HEG-50", "pcc_heg50", "Like PCC, over the 50 genes of highest expression in training"),
    ("HVG-50", "pcc_hvg50", "Like PCC, over the 50 most variable genes in training"),
    ("MSE", "mse", "Mean squared error over spots and genes, slide offset included; lower is better"),
)
KIND_TITLES = {"control": "Controls: the floor", "diagnostic": "Diagnostics: they see what no predictor has"}


def leaderboard_table(standing: Standing) -> str:
    """Return heads, then controls and diagnostics shaded, each with its scores."""
    head_cells = "".join(
        f'<th scope="col" title="{escaped(words)}">{escaped(title)}</th>'
        for title, words in (
            ("PCC", "Pearson within each test slide, mean over genes, then over slides; below it its spread"),
            ("over floor", "PCC less that of the best control"),
            *((title, words) for title, _, words in SCORES),
            ("NaN genes", "Genes left out of a slide because the truth is constant there, summed over test slides"),
            ("fit", "Seconds to fit, summed over folds"),
        )
    )
    groups = "".join(
        _group(kind, rows, standing)
        for kind, rows in (
            ("head", standing.heads),
            ("control", standing.controls),
            ("diagnostic", standing.diagnostics),
        )
    )
    return (
        '<small class="hint">More columns to the right: swipe the table.</small>'
        '<div class="scroll"><table class="leaderboard">'
        f'<thead><tr><th scope="col" class="name">head</th>{head_cells}</tr></thead>{groups}</table></div>\n'
    )


def folds_table(standing: Standing) -> str:
    """Return the headline score of every row on every fold; nothing where there are no folds."""
    names = fold_names(standing.rows)
    if not names:
        return ""
    sizes = {str(fold.get("fold")): number(fold, "n_test") for row in standing.rows for fold in row.folds}
    header = "".join(
        f'<th scope="col">{escaped(name)}<small>{count_text(sizes.get(name))} spots</small></th>' for name in names
    )
    lines = [(row, [row.fold_scores.get(name) for name in names]) for row in standing.rows]
    return _score_table(header, lines)


def patients_table(standing: Standing) -> str:
    """Return the headline score of every row on every patient; nothing where there are none, or folds are patients."""
    patients = list(dict.fromkeys(patient for row in standing.rows for patient in row.per_patient))
    if not patients or set(patients) == set(fold_names(standing.rows)):
        return ""
    header = "".join(f'<th scope="col">{escaped(patient)}</th>' for patient in patients)
    return _score_table(header, [(row, [row.per_patient.get(name) for name in patients]) for row in standing.rows])


def skipped_table(skipped: Sequence[tuple[str, str]]) -> str:
    """Return the heads that were not run, with reasons; nothing where there are none."""
    if not skipped:
        return ""
    lines = "".join(
        f'<tr><th scope="row" class="name">{escaped(head)}</th><td class="prose">{escaped(reason)}</td></tr>'
        for head, reason in skipped
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col" class="name">head</th>'
        f'<th scope="col" class="prose">why, and what to do</th></tr></thead><tbody>{lines}</tbody></table></div>\n'
    )


def _group(kind: str, rows: Sequence[Row], standing: Standing) -> str:
    if not rows:
        return ""
    columns = len(SCORES) + 5
    title = KIND_TITLES.get(kind)
    opening = f'<tr class="group"><th colspan="{columns}" scope="rowgroup">{title}</th></tr>' if title else ""
    lines = "".join(_line(row, best=kind == "head" and row is rows[0], floor=standing.floor) for row in rows)
    return f'<tbody class="{kind}">{opening}{lines}</tbody>'


def _line(row: Row, *, best: bool, floor: float | None) -> str:
    above = None if row.score is None or floor is None or row.kind != "head" else row.score - floor
    below = above is not None and above <= 0
    cells = [
        f'<td class="headline">{score_text(row.score)}{_spread(row)}</td>',
        f"<td{_class('below', when=below)}>{score_text(above, signed=True)}</td>",
        *(f"<td>{score_text(number(row.aggregate, field))}</td>" for _, field, _ in SCORES),
        f"<td>{count_text(number(row.aggregate, 'nan_genes'))}</td>",
        f"<td>{seconds_text(number(row.aggregate, 'fit_seconds'))}</td>",
    ]
    return f"<tr{_class('best', when=best)}>{_name(row)}{''.join(cells)}</tr>"


def _name(row: Row) -> str:
    notes = []
    options = row.aggregate.get("options")
    if isinstance(options, dict) and options:
        notes.append(", ".join(f"{name}={value}" for name, value in options.items()))
    parameters = number(row.aggregate, "parameters")
    if parameters:
        notes.append(plural(round(parameters), "parameter"))
    if row.aggregate.get("constant") is True:
        notes.append("constant in places: scores 0 there")
    small = "".join(f"<small>{escaped(note)}</small>" for note in notes)
    return f'<th scope="row" class="name">{escaped(row.label)}{small}</th>'


def _spread(row: Row) -> str:
    if row.interval is not None:
        return f"<small>{range_text(*row.interval)}</small>"
    if row.fold_range is not None:
        return f"<small>folds {range_text(*row.fold_range)}</small>"
    return ""


def _score_table(header: str, lines: Sequence[tuple[Row, Sequence[float | None]]]) -> str:
    body = "".join(
        f'<tr class="{row.kind}"><th scope="row" class="name">{escaped(row.label)}</th>'
        + "".join(f"<td>{score_text(score)}</td>" for score in scores)
        + "</tr>"
        for row, scores in lines
    )
    return (
        '<div class="scroll"><table class="folds"><thead><tr><th scope="col" class="name">head</th>'
        f"{header}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def _class(name: str, *, when: bool) -> str:
    return f' class="{name}"' if when else ""
