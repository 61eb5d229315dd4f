"""The report's tables: the leaderboard, its folds and patients, the heads that were skipped."""

from __future__ import annotations

from collections.abc import Sequence

from .leaderboard_rows import Row, fold_names
from .numerals import count_text, number, plural, range_text, score_text, seconds_text
from .report_page import escaped
from .score_words import in_words, short_name
from .scores import SCORE_RULES
from .standings import Standing

# Shown beside the score that ranks; the others are in a table that the reader opens.
SCORES = ("pcc_slide_mean", "pcc_slide_median", "pcc_pooled", "pcc_heg50", "pcc_hvg50", "mse")
KIND_TITLES = {"control": "Controls: the floor", "diagnostic": "Diagnostics: they see what no predictor has"}


def leaderboard_table(standing: Standing) -> str:
    """Return heads, then controls and diagnostics shaded, each with its scores."""
    ranking = short_name(standing.score)
    head_cells = "".join(
        f'<th scope="col" title="{escaped(words)}">{escaped(title)}</th>'
        for title, words in (
            (ranking, f"{in_words(standing.score)}; below it its spread"),
            ("over floor", f"{ranking} less that of the best control"),
            *((short_name(field), in_words(field)) for field in _beside(standing)),
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


def all_scores_table(standing: Standing) -> str:
    """Return every score of every row, one score a line, and what each is; nothing where no row has any."""
    fields = [name for name in SCORE_RULES if any(number(row.aggregate, name) is not None for row in standing.rows)]
    if not fields:
        return ""
    header = "".join(f'<th scope="col">{escaped(row.label)}</th>' for row in standing.rows)
    lines = "".join(
        f'<tr><th scope="row" class="name">{escaped(short_name(field))}<small>{escaped(in_words(field))}</small></th>'
        + "".join(f"<td>{score_text(number(row.aggregate, field))}</td>" for row in standing.rows)
        + "</tr>"
        for field in fields
    )
    return (
        '<div class="scroll"><table class="scores"><thead><tr><th scope="col" class="name">score</th>'
        f"{header}</tr></thead><tbody>{lines}</tbody></table></div>\n"
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
    beside = _beside(standing)
    columns = len(beside) + 5
    title = KIND_TITLES.get(kind)
    opening = f'<tr class="group"><th colspan="{columns}" scope="rowgroup">{title}</th></tr>' if title else ""
    lines = "".join(_line(row, beside, best=kind == "head" and row is rows[0], floor=standing.floor) for row in rows)
    return f'<tbody class="{kind}">{opening}{lines}</tbody>'


def _beside(standing: Standing) -> tuple[str, ...]:
    return tuple(field for field in SCORES if field != standing.score)


def _line(row: Row, beside: Sequence[str], *, best: bool, floor: float | None) -> str:
    above = None if row.score is None or floor is None or row.kind != "head" else row.score - floor
    below = above is not None and above <= 0
    cells = [
        f'<td class="headline">{score_text(row.score)}{_spread(row)}</td>',
        f"<td{_class('below', when=below)}>{score_text(above, signed=True)}</td>",
        *(f"<td>{score_text(number(row.aggregate, field))}</td>" for field in beside),
        f"<td>{count_text(number(row.aggregate, 'nan_genes'))}</td>",
        f"<td>{seconds_text(number(row.aggregate, 'fit_seconds'))}</td>",
    ]
    return f"<tr{_class('best', when=best)}>{_name(row)}{''.join(cells)}</tr>"


def _name(row: Row) -> str:
    notes = []
    options = row.aggregate.get("options")
    if isinstance(options, dict):
        # Mode and seed are part of the label where they matter; None means that the head chooses for itself.
        said = {name: value for name, value in options.items() if value is not None and name not in ("mode", "seed")}
        notes += [", ".join(f"{name}={value}" for name, value in said.items())] if said else []
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
