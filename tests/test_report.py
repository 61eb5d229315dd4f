"""The report and the terminal's leaderboard: what they say, what they refuse to say, that they need nothing else."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from tissuary.heads.comparison.comparison import Comparison, GeneMap
from tissuary.heads.comparison.head_spec import changed_options
from tissuary.heads.contract import options_of
from tissuary.heads.protocols.named import STRICT, STRICT_SLIDE
from tissuary.heads.registry import make_head
from tissuary.heads.report.conclusion import verdict
from tissuary.heads.report.leaderboard import standings
from tissuary.heads.report.report import report_html, write_report
from tissuary.heads.report.terminal import leaderboard_tables
from tissuary.store.errors import ProtocolError

EVIL = "<script>alert('x')</script>\" onload=\"y"


def run(head, by_patient, **fields):
    """The records of one head: a fold per patient and their aggregate, the plain mean."""
    common = {
        "head": head,
        "mode": "default",
        "protocol": "strict",
        "backbone": "stain-texture",
        "views": "20x",
        "panel_size": 250,
        "seed": 0,
        "options": {},
        "control": False,
        "diagnostic": False,
        **fields,
    }
    folds = [
        {**common, "fold": patient, "pcc_slide_mean": score, "n_test": 100} for patient, score in by_patient.items()
    ]
    whole = {**common, "fold": "all", "pcc_slide_mean": float(np.mean(list(by_patient.values())))}
    return [*folds, {**whole, "per_patient": by_patient, **fields}]


def comparison(*runs, **fields):
    records = tuple(record for one in runs for record in one)
    blank = Comparison(protocols=(STRICT,), records=records, warnings=(), skipped=(), maps=(), provenance={})
    return dataclasses.replace(blank, **fields)


RIDGE = run("ridge", {"B": 0.2, "C": 0.3}, pcc_pooled=0.4567, mse=float("nan"), fit_cpu_seconds=75.0, nan_genes=12)
KNN = run("knn", {"B": 0.05, "C": 0.15})
COORDINATES = run("coordinates", {"B": 0.1, "C": 0.2}, control=True)
MEAN = run("mean", {"B": 0.0, "C": 0.0}, control=True, constant=True)
USUAL = (KNN, RIDGE, MEAN, COORDINATES)


def gene_map(**fields):
    rows, columns = np.mgrid[0:6, 0:8]
    center_um = np.c_[columns.ravel(), rows.ravel()] * 200.0 + 500.0  # (48, 2)
    values = center_um[:, 0] / 1000
    plain = {"gene": "ERBB2", "slide_id": "C2", "role": "best gene", "pcc": 0.6123, "head": "ridge"}
    return GeneMap(**{**plain, "center_um": center_um, "measured": values, "predicted": values / 2, **fields})


class Reader(HTMLParser):
    """Tags with attributes, table rows as text, and all text outside styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.rows, self.text, self._skip = [], [], "", False
        self._groups = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._skip = tag == "style"
        if tag == "tbody":
            self._groups.append(dict(attributes).get("class"))
        if tag == "tr":
            self.rows.append((self._groups[-1] if self._groups else None, []))
        if tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if self._skip:
            return
        self.text += data
        if self.rows and self.rows[-1][1]:
            self.rows[-1][1][-1] += f"{data} "

    def row(self, name):
        return next((group, cells) for group, cells in self.rows if cells[0].split()[0] == name)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_whole_and_needs_nothing_else(tmp_path):
    thumbnail = np.full((40, 50, 3), 200, dtype=np.uint8)
    path = write_report(
        comparison(
            *USUAL, maps=(gene_map(thumbnail=thumbnail, thumbnail_um_per_px=50.0), gene_map(role="median gene"))
        ),
        tmp_path / "new" / "report.html",
    )

    page = path.read_text(encoding="utf-8")
    read = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert not read.of("script")
    assert not read.of("link")
    assert not re.search(r"https?:|url\(|@import", page)
    assert all(image["src"].startswith("data:image/") for image in read.of("img"))
    assert all(link["href"].startswith("#board-") for link in read.of("a"))
    assert list(path.parent.iterdir()) == [path]


def test_numbers_are_formatted_and_missing_ones_are_a_dash():
    read = Reader(report_html(comparison(*USUAL)))

    group, cells = read.row("ridge")
    assert group == "head"
    # Name, plot, score, range of folds, CPU time.
    assert [cell.split()[0] for cell in cells[2:]] == ["0.250", "0.200", "1.2"]
    assert cells[3].strip() == "0.200 to 0.300"
    assert cells[4].strip() == "1.2 min"
    assert "75.0 s" not in read.text  # seconds become minutes in the table of costs too
    assert re.search(r"\bnan\b", read.text) is None
    scores = {
        cells[0].split()[0]: cells[1:] for _, cells in read.rows if cells[0].startswith(("pooled", "MSE", "left"))
    }
    assert [cell.strip() for cell in scores["pooled"]] == ["0.457", "–", "–", "–"]
    assert [cell.split()[0] for cell in scores["left"]] == ["12", "–", "–", "–"]
    assert "MSE" not in scores  # nobody has one


def test_heads_come_best_first_then_controls_with_the_best_as_a_shaded_field():
    read = Reader(report_html(comparison(*USUAL)))

    table = [(group, cells[0].split()[0]) for group, cells in read.rows[1:6]]
    assert table == [
        ("head", "ridge"),
        ("head", "knn"),
        ("control", "Controls:"),
        ("control", "coordinates"),
        ("control", "mean"),
    ]
    assert read.row("mean")[1][0].split() == ["mean", "constant"]
    floors = [tag for tag in read.of("rect") if tag.get("class") == "floor"]
    assert len(floors) == 4
    assert len({floor["width"] for floor in floors}) == 1


def test_a_head_that_is_constant_for_some_genes_alone_is_not_called_constant():
    depth = run("depth", {"B": 0.15, "C": 0.19}, control=True, diagnostic=True, constant=True)
    read = Reader(report_html(comparison(*USUAL, depth)))
    assert read.row("depth")[1][0].split() == ["depth", "constant", "in", "places"]


def pair(head, difference, low=None, high=None):
    """A difference as records hold it."""
    method = None if low is None else "t"
    shared = {"head": head, "score": "pcc_slide_mean", "difference": difference, "low": low, "high": high}
    return {**shared, "method": method, "n_patients": 6, "wins": 6, "losses": 0}


def test_the_first_screen_is_conclusion_plot_and_table_in_this_order():
    six = {f"P{i}": 0.2 for i in range(6)}
    limits = {"pcc_slide_mean_low": 0.1, "pcc_slide_mean_high": 0.3}
    head = run("mlp", six, **limits, difference_from_control=pair("density", 0.1, 0.05, 0.15))
    control = run("density", {f"P{i}": 0.1 for i in range(6)}, control=True)
    page = report_html(comparison(head, control, warnings=("Mind this.",), maps=(gene_map(),)))

    places = [page.index(part) for part in ('class="sentence"', '<table class="leaderboard"', 'class="legend"')]
    assert places == sorted(places)
    assert places[-1] < page.index("Mind this.") < page.index("Measured and predicted") < page.index("details-1")
    read = Reader(page)
    cells = [" ".join(cell.split()) for cell in read.row("mlp")[1]]
    assert cells[2:] == ["0.200", "0.100 to 0.300", "+0.100 +0.050 to +0.150", "–"]
    assert [cell.strip() for cell in read.row("density")[1][2:]] == ["0.100", "–", "–", "–"]
    assert [cell.strip() for cell in read.rows[0][1]] == [
        "head",
        "PCC, averaged over test slides",
        "PCC",
        "95 % interval",
        "over best control",
        "CPU time",
    ]


def test_a_column_holds_one_statistic_in_every_row():
    """A row without an interval has a dash where others have theirs, and no range of folds."""
    whole = run("ridge", {"B": 0.2, "C": 0.3}, pcc_slide_mean_low=0.1, pcc_slide_mean_high=0.4)
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(leaderboard_tables(comparison(whole, KNN), width=120)[0])

    read = Reader(report_html(comparison(whole, KNN)))
    assert [read.row(name)[1][3].strip() for name in ("ridge", "knn")] == ["0.100 to 0.400", "–"]
    assert "0.050 to 0.150" not in console.file.getvalue()


def test_the_interval_is_drawn_over_the_markers_with_end_caps():
    six = run("ridge", {f"P{i}": 0.2 for i in range(6)}, pcc_slide_mean_low=0.1, pcc_slide_mean_high=0.3)
    page = report_html(comparison(six))

    strip = re.search(r'<td class="strip head">.*?</td>', page, flags=re.DOTALL).group()
    order = [strip.rindex(f'class="{name}"') for name in ("dot", "mean", "interval", "cap")]
    assert order == sorted(order)
    assert strip.count('class="cap"') == 2


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"alpha": None, "pca": None, "mode": "default", "seed": 3}, ""),
        ({"alpha": 10.0, "pca": 256, "mode": "default"}, "alpha=10.0, pca=256"),
        ({"alpha": [1.0, 2.0] * 20}, "1 options changed"),
    ],
)
def test_a_head_is_followed_by_what_differs_from_its_defaults(options, line):
    read = Reader(report_html(comparison(run("ridge", {"B": 0.2}, options=options))))

    assert read.row("ridge")[1][0].split(maxsplit=1)[1:] == ([f"{line} "] if line else [])
    # All of them stand behind a fold.
    listed = next(cells for _, cells in read.rows if len(cells) > 1 and "=" in cells[1])
    assert listed[1].strip() == ", ".join(f"{name}={value}" for name, value in options.items())


def test_nested_options_and_those_of_the_label_are_compared_too():
    usual = options_of(make_head("mlp", seed=4))
    changed = {**usual, "hidden": 64, "training": {**usual["training"], "clip": 0.5}}
    read = Reader(report_html(comparison(run("mlp", {"B": 0.2}, mode="hidden=64", options=changed))))

    assert read.row("mlp")[1][0].split() == ["mlp", "(hidden=64)", "clip=0.5"]
    assert changed_options("mlp", json.loads(json.dumps(usual))) == {}
    assert changed_options("my-own", {"width": 3, "seed": 1}) == {"width": 3}


def test_synthetic_data_are_called_so():
    all_of_it = {"slides": 2, "synthetic_slides": ["a", "b"]}
    some = {"slides": 3, "synthetic_slides": ["b"]}

    page = report_html(comparison(RIDGE, provenance=all_of_it, warnings=("A program drew all 2 slides.",)))
    assert page.index("Synthetic data.") < page.index('class="sentence"')
    assert "A program drew all 2 slides and their counts: scores show that the software works" in Reader(page).text
    assert "A program drew 1 of 3 slides and their counts: b." in report_html(comparison(RIDGE, provenance=some))
    assert "Synthetic data" not in report_html(comparison(RIDGE, provenance={"slides": 2, "synthetic_slides": []}))


def test_the_plot_has_a_dot_per_fold_and_the_mean():
    read = Reader(report_html(comparison(*USUAL)))

    assert len(read.of("circle")) == 8
    assert "ridge, fold B: 0.200" in read.text
    means = [tag for tag in read.of("path") if tag["class"] == "mean"]
    assert len(means) == 4
    # The axis runs from -0.018 to 0.318: 6 % of the span beyond zero and the highest fold.
    first = read.of("circle")[0]
    assert float(first["cx"].rstrip("%")) == pytest.approx(100 * (0.2 + 0.018) / 0.336, abs=0.01)


def test_a_head_above_every_control_for_two_patients_is_ahead_and_not_settled():
    said = verdict(standings(comparison(*USUAL))[0])

    assert said.outcome == "ahead"
    assert said.sentence == (
        "The best of 2 heads, ridge, scores 0.250 (patients B 0.200, C 0.300), "
        "0.100 above the best control, coordinates (0.150)."
    )
    assert "2 of 2 patients" in said.notes[0]
    assert "no interval below 5 known patients, so nothing is settled" in said.notes[0]


def test_no_head_above_the_controls_is_said_plainly():
    page = report_html(comparison(KNN, COORDINATES, MEAN))

    assert "No head beats the controls: knn, the only head, scores 0.100" in page
    assert "0.050 below the best control, coordinates (0.150)" in page
    assert 'class="verdict fails"' in page


def test_a_margin_that_one_patient_makes_is_not_called_a_win():
    head = run("mlp", {"B": 0.05, "C": 0.5})

    said = verdict(standings(comparison(head, COORDINATES))[0])

    assert said.outcome == "unclear"
    assert said.sentence.startswith("No head is clearly above the controls: mlp")
    assert "better than every control for 1 of 2 patients" in said.notes[0]


def test_every_patient_has_its_own_best_control():
    head = run("mlp", {"B": 0.3, "C": 0.3})
    uneven = run("coordinates", {"B": 0.4, "C": 0.0}, control=True)
    said = verdict(standings(comparison(head, uneven, run("density", {"B": 0.1, "C": 0.1}, control=True)))[0])

    assert said.outcome == "unclear"
    assert "better than every control for 1 of 2 patients" in said.notes[0]


def test_a_score_below_zero_beats_nothing():
    head = run("mlp", {"B": -0.05, "C": -0.05})
    said = verdict(standings(comparison(head, run("density", {"B": -0.1, "C": -0.1}, control=True)))[0])

    assert said.outcome == "fails"


def test_from_five_patients_on_the_interval_of_the_difference_decides():
    patients = [f"P{i}" for i in range(6)]
    control = run("density", dict.fromkeys(patients, 0.1), control=True)
    limits = {"pcc_slide_mean_low": 0.11, "pcc_slide_mean_high": 0.19}
    scores = dict(zip(patients, [0.14, 0.15, 0.16, 0.15, 0.14, 0.09], strict=True))
    steady = run("ridge", scores, **limits, difference_from_control=pair("density", 0.038, 0.012, 0.065))
    shaky = run("ridge", scores, **limits, difference_from_control=pair("density", 0.038, -0.01, 0.087))

    sure, unsure = (verdict(standings(comparison(head, control))[0]) for head in (steady, shaky))

    assert sure.outcome == "beats"
    assert "(95 % interval 0.110 to 0.190 over 6 patients)" in sure.sentence
    assert "0.038 above the best control, density (0.100)." in sure.sentence
    assert sure.notes[0] == (
        "The difference from density is 0.038 (95 % interval +0.012 to +0.065, Student's t over 6 patients). "
        "ridge is better than every control for 5 of 6 patients."
    )
    assert unsure.outcome == "unclear"
    assert "The interval includes 0: the difference may be chance." in unsure.notes[0]
    read = Reader(report_html(comparison(steady, control)))
    assert [tag["class"] for tag in read.of("line")].count("interval") == 1
    assert "0.110 to 0.190" in read.row("ridge")[1][3]


def test_without_controls_or_heads_nothing_is_claimed():
    alone, nobody = (standings(comparison(records))[0] for records in (RIDGE, MEAN))

    assert verdict(alone).outcome == "unclear"
    assert "no control was scored" in verdict(alone).sentence
    assert verdict(nobody).sentence == "No head was scored."
    assert "Nothing was compared." in report_html(comparison(protocols=()))


def test_a_diagnostic_neither_wins_nor_makes_the_floor():
    depth = run("depth", {"B": 0.9, "C": 0.9}, control=True, diagnostic=True)

    standing = standings(comparison(*USUAL, depth))[0]

    assert [row.label for row in standing.diagnostics] == ["depth"]
    assert standing.floor == pytest.approx(0.15)
    assert Reader(report_html(comparison(*USUAL, depth))).row("depth")[0] == "diagnostic"


def test_each_protocol_backbone_and_set_of_views_has_its_own_leaderboard():
    other_views = run("ridge", {"B": 0.1}, views="10x")
    slide = run("ridge", {"B4": 0.4}, protocol="strict-slide")
    bare_control = run("coordinates", {"B": 0.15}, control=True, backbone=None, views=None)
    bare_twice = [record for _ in range(2) for record in bare_control]

    boards = standings(comparison(RIDGE, other_views, slide, bare_twice, protocols=(STRICT_SLIDE, STRICT)))

    assert [(b.protocol_name, b.views) for b in boards] == [
        ("strict-slide", "20x"),
        ("strict", "20x"),
        ("strict", "10x"),
    ]
    # A control that reads no features stands under each set of views, once, and in its own protocol only.
    assert [[row.label for row in board.controls] for board in boards] == [[], ["coordinates"], ["coordinates"]]
    page = report_html(comparison(RIDGE, slide, protocols=(STRICT_SLIDE, STRICT)))
    assert (
        page.index('id="board-1"')
        < page.index("strict-slide: tested on slides left out, their patients known</h2>")
        < page.index('id="board-2"')
        < page.index("strict: tested on patients left out</h2>")
    )


def test_modes_options_and_seeds_tell_rows_apart():
    scores = {"B": 0.1}
    runs = (
        run("mmap", scores, mode="paper"),
        run("nh2st", scores, options={"neighbours": "space"}),
        run("nh2st", scores, options={"neighbours": "both"}),
        run("mlp", scores),
        run("mlp", scores, seed=1),
    )

    labels = {row.label for row in standings(comparison(*runs))[0].heads}

    assert labels == {
        "mmap (paper)",
        "nh2st, neighbours=space",
        "nh2st, neighbours=both",
        "mlp, seed 0",
        "mlp, seed 1",
    }


def test_two_aggregates_of_one_head_are_refused():
    with pytest.raises(ProtocolError, match="ridge has 2 records of fold 'all'"):
        standings(comparison(RIDGE, RIDGE))


def test_options_that_a_fold_chose_do_not_part_it_from_its_aggregate():
    chosen = [{**record, "options": {"alpha": record["fold"]}} for record in RIDGE]

    (row,) = standings(comparison(chosen))[0].heads

    assert row.label == "ridge"
    assert row.fold_scores == {"B": 0.2, "C": 0.3}


def test_what_a_protocol_leaks_is_printed_and_a_strict_one_says_none():
    slide = run("ridge", {"B4": 0.4}, protocol="strict-slide")

    leaky = report_html(comparison(slide, protocols=(STRICT_SLIDE,)))
    strict = report_html(comparison(RIDGE))

    assert leaky.count("sections of one tumour are no test of generalisation") == 2  # under the verdict, and in a box
    assert "tests on one slide" in leaky
    assert "What this protocol leaks" not in strict
    assert "Known leaks: none." in strict
    assert "transductive features" in strict
    assert "tests on all slides of one patient" in strict


def test_warnings_skipped_heads_preprocessing_and_provenance_are_shown():
    preprocessed = [{**record, "preprocessing": {"selection": "slides", "depth": 812.5}} for record in RIDGE]
    read = Reader(
        report_html(
            comparison(
                preprocessed,
                warnings=("There are two patients.",),
                skipped=(("m2ort", "needs tokens: run `tissuary featurize --tokens 7x7`"),),
                provenance={"fingerprints": {"stain-texture@20x": "9f" * 32}, "licences": ["CC0", "MIT"], "seed": None},
            )
        )
    )

    for words in ("There are two patients.", "--tokens 7x7", "9f" * 32, "CC0", "MIT", "selection", "812.5"):
        assert words in read.text


def test_names_from_outside_cannot_break_out_of_the_page():
    records = run(EVIL, {EVIL: 0.2}, views=EVIL, options={EVIL: EVIL}, preprocessing={EVIL: EVIL})
    control = run(EVIL, {EVIL: 0.1}, control=True, mode=EVIL)
    page = report_html(
        comparison(
            records,
            control,
            warnings=(EVIL,),
            skipped=((EVIL, EVIL),),
            provenance={"store": EVIL, EVIL: [EVIL, {EVIL: EVIL}]},
            maps=(gene_map(gene=EVIL, slide_id=EVIL, head=EVIL, role=EVIL),),
        )
    )

    read = Reader(page)
    assert not read.of("script")
    assert "<script" not in page
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert EVIL in read.text
    assert "default-src 'none'" in next(tag["content"] for tag in read.of("meta") if "http-equiv" in tag)


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path):
    path = write_report(comparison(RIDGE, warnings=("slide \udcff",)), tmp_path / "report.html")

    assert "slide &#56575;" in path.read_text(encoding="utf-8")


def test_maps_are_shown_side_by_side_with_words():
    read = Reader(report_html(comparison(*USUAL, maps=(gene_map(), gene_map(gene="FASN", role="median gene")))))

    assert [image["alt"] for image in read.of("img")] == [
        f"{caption}, {gene} on slide C2"
        for gene in ("ERBB2", "FASN")
        for caption in ("Measured", "Predicted, same colours", "Predicted, own colours")
    ]
    assert "Best gene: ERBB2" in read.text
    assert "Pearson 0.612" in read.text


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_map_of_hardly_any_spots_is_no_error(n):
    few = gene_map(center_um=np.zeros((n, 2)), measured=np.full(n, np.nan), predicted=np.zeros(n), pcc=float("nan"))

    page = report_html(comparison(RIDGE, maps=(few,)))

    assert "Pearson –" in page
    assert ("no spots to show" in page) == (n == 0)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_score_whole_and_names_literally(width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    odd = run("[red]odd", {"B": -0.123, "C": -0.234})

    for table in leaderboard_tables(comparison(*USUAL, odd), width=width):
        console.print(table)

    shown = console.file.getvalue()
    lines = shown.splitlines()
    ridge = next(line for line in lines if "ridge" in line)
    assert "0.250" in ridge
    assert "0.200 to 0.300" in ridge
    assert "0.457" in ridge
    assert "[red]odd" in shown
    assert "-0.234 to -0.123" in shown
    assert "…" not in shown
    assert "controls to exceed" in " ".join(shown.split())
    assert "0.100 above the best control" in " ".join(shown.split())
    assert max(map(len, lines)) <= width
    assert ("HVG-50" in shown) == (width == 120)
