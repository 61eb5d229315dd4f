"""report.html: one self-contained page that says who won, by how much, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...store.atomic import atomic_path
from ...store.choices import plural
from .comparison import Comparison, GeneMap
from .licences import licence_sentences
from .numerals import count_text, number, score_text
from .protocol_words import protocol_sentences, recorded_preprocessing
from .provenance import synthetic_sentence
from .report_details import calibration_part, ceiling_words, distributions, slide_level_words
from .report_page import box, bullets, escaped, facts, folded, page, paragraph, section
from .report_plots import map_pictures
from .report_tables import (
    all_scores_table,
    folds_table,
    leaderboard_table,
    options_table,
    patients_table,
    skipped_table,
)
from .score_plot import score_legend
from .score_words import ranking_words, short_name
from .standings import Standing, standings
from .verdict import Verdict, verdict

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


def _opening(comparison: Comparison, boards: Sequence[Standing]) -> str:
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


def _outcome(said: Verdict) -> str:
    return f'<span class="outcome {said.outcome}">{OUTCOME_WORDS[said.outcome]}</span>'


def _board(standing: Standing) -> str:
    """The conclusion of one leaderboard, its table with the plot, and what the score is."""
    said, protocol = verdict(standing), standing.protocol
    body = (
        f'<div class="verdict {said.outcome}"><p class="sentence">{_outcome(said)} {escaped(said.sentence)}</p>'
        f"{bullets(said.notes)}</div>\n"
    )
    body += leaderboard_table(standing) + score_legend(standing)
    words = [ranking_words(protocol)] if protocol is not None else []
    return body + paragraph(" ".join([*words, _sizes(standing)]), style="sizes")


def _details(standing: Standing) -> str:
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


def _protocol_words(standing: Standing) -> str:
    protocol = standing.protocol
    words = bullets(protocol_sentences(protocol)) if protocol else paragraph("The comparison carries no such protocol.")
    if protocol is not None:
        words += box("Declared", protocol.declares, style="declared")
        words += paragraph("Known leaks: none.") if not protocol.leaks else ""
    recorded = facts(recorded_preprocessing(standing))
    return words + (f"<h4>Preprocessing as recorded</h4>{recorded}" if recorded else "")


def _title(standing: Standing) -> str:
    how = SPLIT_TITLES.get(standing.protocol.split) if standing.protocol is not None else None
    return f"{standing.protocol_name}: {how}" if how else standing.protocol_name


def _features(standing: Standing) -> str:
    return f"{standing.backbone} at {standing.views}"


def _sizes(standing: Standing) -> str:
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
