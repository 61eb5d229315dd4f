"""report.html: one self-contained page that says who won, by how much, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ...store.choices import plural
from ...store.files.atomic import atomic_path
from ..comparison.comparison import Comparison, GeneMap
from ..comparison.details import SHOWN_BINS
from ..comparison.numbers import count_text, number, score_text
from ..comparison.results_file import synthetic_sentence
from ..protocols.protocol import HEADLINE_FIELD, Protocol
from ..protocols.targets import TARGET_RULES
from .conclusion import Conclusion, verdict
from .curve_plots import calibration_plot, gene_curves, slopes
from .leaderboard import Leaderboard, Row, standings
from .maps import map_pictures
from .page import box, bullets, escaped, facts, folded, page, paragraph, section
from .score_plot import gene_plot, score_legend, slide_plot
from .tables import all_scores_table, folds_table, leaderboard_table, options_table, patients_table, skipped_table
from .words import licence_sentences, protocol_sentences, ranking_words, recorded_preprocessing, short_name

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


def ceiling_words(standing: Leaderboard) -> str:
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


def slide_level_words(standing: Leaderboard) -> str:
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


def distributions(standing: Leaderboard) -> str:
    """Return the spread of scores over genes and over slides, as HTML; nothing where details are missing."""
    genes, slides = gene_plot(standing), slide_plot(standing)
    body = f"<h3>Scores by gene</h3>{paragraph(GENES_NOTE, style='note')}{genes}" if genes else ""
    if genes:
        body += f"<h4>Genes sorted</h4>{gene_curves(standing)}{paragraph(SORTED_NOTE, style='note')}"
    return body + (f"<h3>Scores by slide</h3>{slides}" if slides else "")


def calibration_part(standing: Leaderboard) -> str:
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


def _slope_table(standing: Leaderboard) -> str:
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


OUTCOME_WORDS = {
    "beats": "above the controls",
    "ahead": "ahead, too few patients to settle",
    "unclear": "not settled",
    "fails": "not above the controls",
}
SPLIT_TITLES = {
    "patient": "tested on patients left out",
    "slide": "tested on slides left out, their patients known",
    "slide-kfold": "tested on slides left out, whoever their patients are",
    "slide-shuffle": "tested on slides left out, whoever their patients are",
    "one-slide-a-patient": "tested on slides left out, their patients known",
}
OPENING = (
    "Heads predict gene expression from image features. Controls hardly see the tissue: only what a head scores above "
    "them is read from the picture."
)
COLOUR_NOTE = (
    "Measured and predicted values share one colour scale, from the 1st to the 99th percentile of both, in the units "
    "under the bars. Predictions span less than counts do, so the last map shows them again in colours of their own. "
    "Spots are held out: the head has not seen this slide."
)
ROLE_NOTES = {
    "best gene": "predicted best of all, chosen with the test counts known: what is possible at most",
    "median gene": "half of the genes are predicted better, half worse: what is usual",
    "chosen gene": "asked for by name",
}


def write_report(comparison: Comparison, path: Path) -> Path:
    """Write the report of a comparison, whole or not at all.

    The page loads nothing and runs nothing: style, plots and maps are inside it, so that it opens from a disk, in a
    mail or on a server alike.

    Parameters
    ----------
    comparison
        What `compare` returned.
    path
        The file to write, `report.html` by custom; its folder is made where it does not exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    ProtocolError
        If the records cannot be told apart.
    """
    text = report_html(comparison)
    with atomic_path(path) as partial:
        # A name with bytes that are no text becomes a character reference instead of an error.
        partial.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))
    return path


def report_html(comparison: Comparison) -> str:
    """Return the report of a comparison as one HTML document.

    Its first screen is the conclusion and the leaderboard of the first protocol with its plot; what limits the
    conclusion, maps and details follow.
    """
    boards = standings(comparison)
    body = _opening(comparison, boards)
    for index, standing in enumerate(boards, start=1):
        body += section(_title(standing), _board(standing), anchor=f"board-{index}")
    # That data are synthetic stands on top already.
    limits = [words for words in comparison.warnings if words != synthetic_sentence(comparison.provenance)]
    body += box("Before you quote these numbers", limits, style="warning")
    body += section("Measured and predicted", _maps(comparison.maps), anchor="maps")
    for index, standing in enumerate(boards, start=1):
        body += section(f"Details of {standing.protocol_name}", _details(standing), anchor=f"details-{index}")
    body += section("Skipped heads", skipped_table(comparison.skipped), anchor="skipped")
    licences = bullets(licence_sentences(comparison.provenance))
    body += section("Licences that apply", licences, anchor="licences")
    body += section("Provenance", facts(comparison.provenance), anchor="provenance")
    return page("tissuary: expression heads compared", body)


def _opening(comparison: Comparison, boards: Sequence[Leaderboard]) -> str:
    """Title, what is compared, whether the data are synthetic, and a link to each of several leaderboards."""
    named = [escaped(comparison.provenance[name]) for name in ("store", "date") if comparison.provenance.get(name)]
    opening = f'<header><p class="brand">{" · ".join(["<strong>tissuary</strong>", *named])}</p>'
    opening += "<h1>Expression heads compared</h1>"
    opening += paragraph(OPENING, style="subtitle") if boards else paragraph("Nothing was compared.")
    synthetic = synthetic_sentence(comparison.provenance)
    opening += f'<p class="synthetic"><strong>Synthetic data.</strong> {escaped(synthetic)}</p>' if synthetic else ""
    links = "".join(
        f'<li><a href="#board-{index}">{escaped(standing.protocol_name)} · {escaped(_features(standing))}</a> '
        f"{_outcome(verdict(standing))}</li>"
        for index, standing in enumerate(boards, start=1)
    )
    return opening + (f'<ul class="boards">{links}</ul>' if len(boards) > 1 else "") + "</header>\n"


def _outcome(said: Conclusion) -> str:
    return f'<span class="outcome {said.outcome}">{OUTCOME_WORDS[said.outcome]}</span>'


def _board(standing: Leaderboard) -> str:
    """The conclusion of one leaderboard, its table with the plot, and what the score is."""
    said, protocol = verdict(standing), standing.protocol
    body = (
        f'<div class="verdict {said.outcome}"><p class="sentence">{_outcome(said)} {escaped(said.sentence)}</p>'
        f"{bullets(said.notes)}</div>\n"
    )
    body += leaderboard_table(standing) + score_legend(standing)
    words = [ranking_words(protocol)] if protocol is not None else []
    return body + paragraph(" ".join([*words, _sizes(standing)]), style="sizes")


def _details(standing: Leaderboard) -> str:
    """What a protocol leaks, how scores spread over genes and slides, calibration, and every number in tables."""
    protocol = standing.protocol
    body = ""
    if protocol is not None:
        body += box("What this protocol leaks", protocol.leaks, style="leak")
        body += box("Adapted", [protocol.adapted] if protocol.adapted else [], style="declared")
    body += slide_level_words(standing) + ceiling_words(standing)
    body += distributions(standing) + calibration_part(standing)
    name = short_name(standing.score)
    tables = {
        "Every score of every head": all_scores_table(standing),
        f"{name} of every fold": folds_table(standing),
        f"{name} of every patient, averaged over the patient's slides": patients_table(standing),
        "Options, size and cost of every head": options_table(standing),
        f"The protocol {standing.protocol_name} in words": _protocol_words(standing),
    }
    return body + "".join(folded(title, table) for title, table in tables.items() if table)


def _protocol_words(standing: Leaderboard) -> str:
    protocol = standing.protocol
    words = bullets(protocol_sentences(protocol)) if protocol else paragraph("The comparison carries no such protocol.")
    if protocol is not None:
        words += box("Declared", protocol.declares, style="declared")
        words += paragraph("Known leaks: none.") if not protocol.leaks else ""
    recorded = facts(recorded_preprocessing(standing))
    return words + (f"<h4>Preprocessing as recorded</h4>{recorded}" if recorded else "")


def _title(standing: Leaderboard) -> str:
    how = SPLIT_TITLES.get(standing.protocol.split) if standing.protocol is not None else None
    return f"{standing.protocol_name}: {how}" if how else standing.protocol_name


def _features(standing: Leaderboard) -> str:
    return f"{standing.backbone} at {standing.views}"


def _sizes(standing: Leaderboard) -> str:
    """Return how much evidence there is, as the first row records it."""
    parts = [f"Features: {_features(standing)}"]
    if standing.rows:
        row = standing.rows[0]
        slides, genes = number(row.aggregate, "n_slides"), number(row.aggregate, "panel_size")
        spots = [size for fold in row.folds if (size := number(fold, "n_test")) is not None]
        parts += [plural(len(row.folds), "fold")] if row.folds else []
        parts += [plural(len(row.per_patient), "patient")] if row.per_patient else []
        parts += [plural(round(slides), "test slide")] if slides else []
        parts += [f"{count_text(sum(spots))} test spots"] if spots else []
        parts += [f"{count_text(genes)} genes"] if genes is not None else []
    return " · ".join(parts) + "."


def _maps(maps: Sequence[GeneMap]) -> str:
    if not maps:
        return ""
    return paragraph(COLOUR_NOTE) + "".join(_map(gene_map) for gene_map in maps)


def _map(gene_map: GeneMap) -> str:
    """One gene: measured, predicted, and the tissue where there is a thumbnail."""
    role = gene_map.role[:1].upper() + gene_map.role[1:]
    title = f"<h3>{escaped(role)}: {escaped(gene_map.gene)}</h3>"
    facts_of = [f"slide {gene_map.slide_id}", f"Pearson {score_text(gene_map.pcc)}", f"predicted by {gene_map.head}"]
    note = ROLE_NOTES.get(gene_map.role)
    title += paragraph(" · ".join(facts_of) + (f"; {note}" if note else ""), style="sizes")
    if not len(gene_map.center_um):
        return title + paragraph("This slide has no spots to show.")
    pictures = map_pictures(gene_map)
    figures = "".join(
        f'<figure><img src="{uri}" alt="{escaped(f"{name}, {gene_map.gene} on slide {gene_map.slide_id}")}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, uri in pictures.items()
    )
    return f'{title}<div class="maps">{figures}</div>\n'
