"""The report's tables: the leaderboard, its folds and patients, the heads that were skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..comparison.head_spec import changed_options
from ..comparison.numbers import DASH, count_text, number, range_text, score_text, seconds_text
from ..comparison.results import difference_in
from ..protocols.scores.scores import SCORE_RULES
from .leaderboard import Leaderboard, Row, fold_names
from .page import escaped
from .score_plot import score_strips
from .words import averaged_words, in_words, short_name

KIND_TITLES = {
    "control": "Controls: they hardly see the tissue of a spot",
    "diagnostic": "Diagnostic, not ranked: it reads counts of the test spots",
}
TIMES_NOTE = (
    "Times are sums over folds. CPU time counts all threads of the process; elapsed time grows when other work shares "
    "the machine."
)
CONSTANT_WORDS = "The prediction is the same all over a slide for some genes, and scores 0 there"
# A line of options longer than this stands in the table of options alone.
MAX_OPTIONS_CHARACTERS = 60
# A longer label is broken into lines.
MAX_LABEL_CHARACTERS = 24


def leaderboard_table(standing: Leaderboard) -> str:
    """Return heads, then controls and diagnostics: score, plot, interval, differences and cost of each, as HTML."""
    name = short_name(standing.score)
    columns = _columns(standing)
    header = "".join(
        f'<th scope="col" class="{style}" title="{escaped(words)}">{escaped(title)}</th>'
        for title, style, words in (
            (f"{name}, {averaged_words(standing.score)}", "strip", f"{in_words(standing.score)}; higher is better"),
            (name, "", in_words(standing.score)),
            *((column.title, column.style, column.words) for column in columns),
        )
    )
    strips, axis = score_strips(standing) or ({}, "")
    groups = ""
    for kind, rows in (("head", standing.heads), ("control", standing.controls), ("diagnostic", standing.diagnostics)):
        title = KIND_TITLES.get(kind)
        span = len(columns) + 3
        opening = f'<tr class="group"><th colspan="{span}" scope="rowgroup">{title}</th></tr>' if title else ""
        lines = "".join(_line(row, strips.get(row.label, ""), columns, best=row in standing.heads[:1]) for row in rows)
        groups += f'<tbody class="{kind}">{opening}{lines}</tbody>' if rows else ""
    foot = f'<tfoot><tr><th></th><td class="strip">{axis}</td><td colspan="{len(columns) + 1}"></td></tr></tfoot>'
    return (
        '<small class="hint">More columns to the right: swipe the table.</small>'
        '<div class="scroll"><table class="leaderboard">'
        f'<thead><tr><th scope="col" class="name">head</th>{header}</tr></thead>{groups}{foot}</table></div>\n'
    )


@dataclass(frozen=True)
class TableColumn:
    """A column beside the score: its title, what it is, its cell of each row as HTML, and its class."""

    title: str
    words: str
    cell: Callable[[Row], str]
    style: str = ""


def _columns(standing: Leaderboard) -> tuple[TableColumn, ...]:
    """Return the columns that any row has something for; each holds one statistic."""
    spread = (
        TableColumn("95 % interval", "95 % interval of the score, patients as the unit", _interval_cell)
        if any(row.interval for row in standing.rows)
        else TableColumn("lowest to highest fold", "There are too few known patients for an interval", _folds_cell)
    )
    columns = [spread]
    for name, title in (("control", "over best control"), ("ridge", "over ridge")):
        if any(difference_in(row.aggregate, name) for row in standing.heads):
            words = f"Difference of the score {title.replace('over', 'from')}, and its 95 % interval"
            columns.append(TableColumn(title, words, partial(_difference_cell, name=name)))
    words = "Processor time of all threads to fit, summed over folds"
    return (*columns, TableColumn("CPU time", words, _cost_cell, style="cost"))


def _cost_cell(row: Row) -> str:
    return seconds_text(number(row.aggregate, "fit_cpu_seconds"))


def _interval_cell(row: Row) -> str:
    return range_text(*(row.interval or (None, None)))


def _folds_cell(row: Row) -> str:
    return range_text(*(row.fold_range or (None, None)))


def _difference_cell(row: Row, *, name: str) -> str:
    """A head's difference; the names of the rivals stand in the conclusion and in the table itself."""
    found = difference_in(row.aggregate, name) if row.kind == "head" else None
    if found is None:
        return DASH
    style = ' class="below"' if found.difference is not None and found.difference <= 0 else ""
    words = f"<span{style}>{score_text(found.difference, signed=True)}</span>"
    if found.low is None:
        return words
    limits = f"{score_text(found.low, signed=True)} to {score_text(found.high, signed=True)}"
    return f"{words} <small>{limits}</small>"


def options_table(standing: Leaderboard) -> str:
    """Return all options of every row, its size and its times, as HTML; nothing where there are no rows."""
    lines = ""
    for row in standing.rows:
        options = row.aggregate.get("options")
        said = ", ".join(f"{name}={value}" for name, value in options.items()) if isinstance(options, dict) else ""
        cells = (
            count_text(number(row.aggregate, "parameters")),
            *(seconds_text(number(row.aggregate, name)) for name in ("fit_cpu_seconds", "fit_seconds")),
            seconds_text(number(row.aggregate, "predict_seconds")),
        )
        lines += (
            f'<tr class="{row.kind}"><th scope="row" class="name">{escaped(row.label)}</th>'
            f'<td class="prose">{escaped(said) or DASH}</td>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    if not lines:
        return ""
    titles = ("parameters", "CPU time to fit", "elapsed to fit", "elapsed to predict")
    header = '<th scope="col" class="name">head</th><th scope="col" class="prose">options</th>'
    header += "".join(f'<th scope="col">{title}</th>' for title in titles)
    return (
        f'<p class="note">{TIMES_NOTE}</p><div class="scroll"><table class="options"><thead><tr>{header}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>\n"
    )


def all_scores_table(standing: Leaderboard) -> str:
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
    left_out = "".join(f"<td>{count_text(number(row.aggregate, 'nan_genes'))}</td>" for row in standing.rows)
    words = "Genes left out of a slide because the truth is constant there, summed over test slides"
    lines += f'<tr><th scope="row" class="name">left out<small>{words}</small></th>{left_out}</tr>'
    return (
        '<div class="scroll"><table class="scores"><thead><tr><th scope="col" class="name">score</th>'
        f"{header}</tr></thead><tbody>{lines}</tbody></table></div>\n"
    )


def folds_table(standing: Leaderboard) -> str:
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


def patients_table(standing: Leaderboard) -> str:
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


def _line(row: Row, strip: str, columns: Sequence[TableColumn], *, best: bool) -> str:
    cells = "".join(f'<td class="{column.style}">{column.cell(row)}</td>' for column in columns)
    return (
        f"<tr{_class('best', when=best)}>{_name(row)}"
        f'<td class="strip {row.kind}">{strip}</td><td class="headline">{score_text(row.score)}</td>{cells}</tr>'
    )


def _name(row: Row) -> str:
    notes = []
    options = row.aggregate.get("options")
    if isinstance(options, dict):
        changed = changed_options(str(row.aggregate.get("head")), options)
        # What the label says already, as of `mlp (hidden=64)`, is not said twice.
        said = ", ".join(f"{name}={value}" for name, value in changed.items() if f"{name}=" not in row.label)
        notes += [said if len(said) <= MAX_OPTIONS_CHARACTERS else f"{len(changed)} options changed"] if said else []
    everywhere = number(row.aggregate, "pcc_slide_mean") == 0.0
    word = "constant" if everywhere else "constant in places"
    constant = row.aggregate.get("constant") is True
    aside = f'<small class="aside" title="{CONSTANT_WORDS}">{word}</small>' if constant else ""
    style = "name long" if len(row.label) > MAX_LABEL_CHARACTERS else "name"
    small = "".join(f"<small>{escaped(note)}</small>" for note in notes)
    return f'<th scope="row" class="{style}">{escaped(row.label)}{aside}{small}</th>'


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
