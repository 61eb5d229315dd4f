"""report.html: one self-contained page that says who won, by how much, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...store.atomic import atomic_path
from .comparison import Comparison, GeneMap
from .licences import licence_sentences
from .numerals import count_text, number, plural, score_text
from .protocol_words import protocol_sentences, recorded_preprocessing
from .report_details import calibration_part, ceiling_words, distributions, slide_level_words
from .report_page import box, bullets, escaped, facts, folded, page, paragraph, section
from .report_plots import map_pictures
from .report_tables import all_scores_table, folds_table, leaderboard_table, patients_table, skipped_table
from .score_plot import score_plot
from .score_words import ranking_words, short_name
from .standings import Standing, standings
from .verdict import verdict

OUTCOME_WORDS = {
    "beats": "above the floor",
    "ahead": "ahead, too few patients to settle",
    "unclear": "not settled",
    "fails": "not above the floor",
}
COLOUR_NOTE = (
    "Each map has its own colours, from the 1st to the 99th percentile of its values, since predictions span less "
    "than counts do: compare the patterns by colour and the sizes by the numbers under the bars. Spots are held out: "
    "the head has not seen this slide."
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
    """Return the report of a comparison as one HTML document."""
    boards = standings(comparison)
    body = _opening(comparison, boards)
    body += box("Before you quote these numbers", comparison.warnings, style="warning")
    for index, standing in enumerate(boards):
        body += _board(standing, anchor=f"board-{index + 1}")
    body += section("Measured and predicted", _maps(comparison.maps), anchor="maps")
    body += section("Skipped heads", skipped_table(comparison.skipped), anchor="skipped")
    licences = bullets(licence_sentences(comparison.provenance))
    body += section("Licences that apply", licences, anchor="licences")
    body += section("Provenance", facts(comparison.provenance), anchor="provenance")
    return page("tissuary: expression heads compared", body)


def _opening(comparison: Comparison, boards: Sequence[Standing]) -> str:
    """Title, then one verdict per leaderboard."""
    named = [str(comparison.provenance[name]) for name in ("store", "date") if comparison.provenance.get(name)]
    opening = '<header><p class="brand">tissuary</p><h1>Expression heads compared</h1>'
    opening += paragraph(" · ".join(named), style="subtitle") if named else ""
    for index, standing in enumerate(boards):
        said = verdict(standing)
        link = f'<a href="#board-{index + 1}">{escaped(_title(standing))}</a>'
        opening += (
            f'<div class="verdict {said.outcome}"><p class="where"><span class="outcome">{OUTCOME_WORDS[said.outcome]}'
            f"</span> {link}</p>{paragraph(said.sentence, style='sentence')}{paragraph(' '.join(said.notes))}</div>\n"
        )
    return opening + ("" if boards else paragraph("Nothing was compared.")) + "</header>\n"


def _board(standing: Standing, *, anchor: str) -> str:
    """One leaderboard: sizes, table, plots, folds and patients, and the protocol in words."""
    protocol = standing.protocol
    body = paragraph(_sizes(standing), style="sizes")
    body += paragraph(ranking_words(protocol), style="sizes") if protocol is not None else ""
    body += leaderboard_table(standing)
    if protocol is not None:
        body += box("What this protocol leaks", protocol.leaks, style="leak")
        body += box("Adapted", [protocol.adapted] if protocol.adapted else [], style="declared")
    body += slide_level_words(standing)
    body += f"<h3>Scores by fold</h3>{score_plot(standing)}{ceiling_words(standing)}"
    body += distributions(standing) + calibration_part(standing)
    name = short_name(standing.score)
    tables = {
        "Every score of every head": all_scores_table(standing),
        f"{name} of every fold": folds_table(standing),
        f"{name} of every patient": patients_table(standing),
        f"The protocol {standing.protocol_name} in words": _protocol_words(standing),
    }
    body += "".join(folded(title, table) for title, table in tables.items() if table)
    return section(_title(standing), body, anchor=anchor)


def _protocol_words(standing: Standing) -> str:
    protocol = standing.protocol
    words = bullets(protocol_sentences(protocol)) if protocol else paragraph("The comparison carries no such protocol.")
    if protocol is not None:
        words += box("Declared", protocol.declares, style="declared")
        words += paragraph("Known leaks: none.") if not protocol.leaks else ""
    recorded = facts(recorded_preprocessing(standing))
    return words + (f"<h4>Preprocessing as recorded</h4>{recorded}" if recorded else "")


def _title(standing: Standing) -> str:
    return f"{standing.protocol_name} · {standing.backbone} · {standing.views}"


def _sizes(standing: Standing) -> str:
    """Say how much evidence there is, as the first row records it."""
    parts = [plural(len(standing.heads), "head"), plural(len(standing.controls), "control")]
    if standing.rows:
        row = standing.rows[0]
        patients, genes = len(row.per_patient), number(row.aggregate, "panel_size")
        spots = [size for fold in row.folds if (size := number(fold, "n_test")) is not None]
        parts += [plural(len(row.folds), "fold")] if row.folds else []
        parts += [plural(patients, "patient")] if patients else []
        parts += [f"{count_text(sum(spots))} test spots"] if spots else []
        parts += [f"{count_text(genes)} genes"] if genes is not None else []
    return " · ".join(parts)


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
    shown = [("Measured", pictures.measured), ("Predicted", pictures.predicted)]
    shown += [("Tissue", pictures.tissue)] if pictures.tissue is not None else []
    figures = "".join(
        f'<figure><img src="{uri}" alt="{escaped(f"{name}, {gene_map.gene} on slide {gene_map.slide_id}")}">'
        f"<figcaption>{name}</figcaption></figure>"
        for name, uri in shown
    )
    return f'{title}<div class="maps">{figures}</div>\n'
