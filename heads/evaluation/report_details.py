"""The parts of a leaderboard's report below its scores: ceiling, genes, slides, calibration, and what pooling adds."""

from __future__ import annotations

import math

from .calibration import SHOWN_BINS
from .curve_plots import calibration_plot, gene_curves, slopes
from .distribution_plot import gene_plot, slide_plot
from .leaderboard_rows import HEADLINE_FIELD, Row
from .numerals import number, score_text
from .protocol_record import Protocol
from .report_page import escaped, folded, paragraph
from .standings import Standing
from .target_rules import TARGET_RULES

# A pooled score below this of a head that cannot tell spots apart is chance.
POOLED_WORTH_SAYING = 0.02
GENES_NOTE = "Per gene: the Pearson correlation within a test slide, averaged over test slides."
SORTED_NOTE = "Each curve is sorted on its own: the same place on two curves is not the same gene."
CEILING_WORDS = (
    "The ceiling of counting is the within-slide PCC of a head that knew every spot's expected counts. It is estimated "
    "by splitting the counts in halves. The sampling of molecules alone keeps every head below it. Spots also differ "
    "in ways that no picture shows, so what an image can reach lies lower."
)
OTHER_GENES_WORDS = (
    "What a spot's other genes say is the within-slide PCC of a ridge that reads the other measured genes of the spot, "
    "on slides held out. It is no upper bound: it shows how much expression genes share."
)
SHARED_SPLITS = ("slide", "slide-kfold", "slide-shuffle", "one-slide-a-patient")


def ceiling_words(standing: Standing) -> str:
    """Return what the ceiling lines are and what share of them the best head reaches, as HTML; nothing without."""
    ceiling = standing.ceiling
    if ceiling is None or not ceiling.defined:
        return ""
    sentences = [f"{CEILING_WORDS} Here it is {score_text(ceiling.counting_mean)}."]
    if math.isfinite(ceiling.other_genes_mean):
        sentences.append(f"{OTHER_GENES_WORDS} Here it is {score_text(ceiling.other_genes_mean)}.")
    if standing.score != HEADLINE_FIELD:
        sentences.append("Both are of the within-slide score, by which this leaderboard does not rank.")
    return paragraph(" ".join(sentences), style="note")


def slide_level_words(standing: Standing) -> str:
    """Return what pooled scores owe to differences between slides, as HTML; nothing where nothing shows it.

    A row whose prediction is constant within each slide cannot tell spots apart; what it scores when slides are mixed
    is the part of every pooled score that needs no look at a spot.
    """
    flat = [(row, pooled) for row in standing.rows if (pooled := _flat_pooled(row)) is not None]
    if not flat:
        return ""
    row, pooled = max(flat, key=lambda pair: pair[1])
    words = (
        f"Pooled scores mix slides. {row.label} predicts one value per gene for a whole slide: within slides it scores "
        f"0.000, pooled {score_text(pooled)}. So much of a pooled score tells slides apart, and says nothing of where "
        "on a slide a gene is expressed."
    )
    return paragraph(words + _copied(standing.protocol), style="note")


def _flat_pooled(row: Row) -> float | None:
    """The pooled score of a row that is constant within slides."""
    within, pooled = number(row.aggregate, "pcc_slide_mean"), number(row.aggregate, "pcc_pooled")
    flat = row.aggregate.get("constant") is True and within == 0.0
    return pooled if flat and pooled is not None and pooled >= POOLED_WORTH_SAYING else None


def _copied(protocol: Protocol | None) -> str:
    if protocol is None or protocol.split not in SHARED_SPLITS:
        return ""
    return (
        " Under this split other slides of a test patient may be trained on, and a patient's level can be copied from "
        "them: that moves pooled scores and not those within slides."
    )


def distributions(standing: Standing) -> str:
    """Return the spread of scores over genes and over slides, as HTML; nothing where details are missing."""
    genes, slides = gene_plot(standing), slide_plot(standing)
    body = f"<h3>Scores by gene</h3>{paragraph(GENES_NOTE, style='note')}{genes}" if genes else ""
    if genes:
        body += f"<h4>Genes sorted</h4>{gene_curves(standing)}{paragraph(SORTED_NOTE, style='note')}"
    return body + (f"<h3>Scores by slide</h3>{slides}" if slides else "")


def calibration_part(standing: Standing) -> str:
    """Return the calibration of the best head, and the slopes of all rows, as HTML; nothing where it is missing."""
    row = next((row for row in standing.heads if row.label in standing.details), None)
    if row is None:
        return ""
    detail = standing.details[row.label]
    sides = (("Deviation from the slide's mean of the gene", detail.within), ("Whole values", detail.whole))
    figures = "".join(
        calibration_plot(
            side,
            title=title,
            words=f"{row.label}, {title.lower()}: measured against predicted, slope {score_text(side.slope)}",
        )
        for title, side in sides
    )
    if not figures:
        return ""
    words = (
        f"Measured against predicted values of {row.label} in {_unit(standing.protocol)}, over all test spots and "
        f"genes, in {SHOWN_BINS} bins of about as many values; on the dashed line both are equal. Where it predicts "
        f"one unit above its slide's mean, {score_text(detail.within.slope)} units above are measured: below 1 "
        "predictions exaggerate, above 1 they are timid. Whole values hold the levels of genes and slides as well: "
        "their slope is "
        f"{score_text(detail.whole.slope)}."
    )
    return f'<h3>Calibration</h3>{paragraph(words, style="note")}<div class="pair">{figures}</div>\n' + folded(
        "Calibration slopes of every head", _slope_table(standing)
    )


def _unit(protocol: Protocol | None) -> str:
    rule = None if protocol is None else TARGET_RULES.get(protocol.target)
    return "the target's units" if rule is None else rule.unit


def _slope_table(standing: Standing) -> str:
    lines = "".join(
        f'<tr><th scope="row" class="name">{escaped(label)}</th><td>{score_text(within)}</td>'
        f"<td>{score_text(whole)}</td></tr>"
        for label, within, whole in slopes(standing)
    )
    return (
        '<div class="scroll"><table class="slopes"><thead><tr><th scope="col" class="name">head</th>'
        '<th scope="col">within slides</th><th scope="col">whole values</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>\n"
    )
