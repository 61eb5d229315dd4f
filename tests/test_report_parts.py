"""The parts of the report below the leaderboard: what they draw, what they say, that they are well-formed and safe."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tissuary.heads.comparison.comparison import Calibration, Ceiling, Comparison, HeadDetail
from tissuary.heads.protocols.named import PROTOCOLS, STRICT, get_protocol
from tissuary.heads.protocols.scores.scores import SCORE_RULES
from tissuary.heads.report.leaderboard import standings
from tissuary.heads.report.report import report_html
from tissuary.heads.report.terminal import leaderboard_tables
from tissuary.heads.report.words import SHORT_NAMES, licence_sentences, protocol_sentences
from tissuary.store.errors import ProtocolError

EVIL = "<script>alert('x')</script>\" onload=\"y"
VOID = {"meta", "img", "br", "hr", "link", "input"}


def run(head, by_patient, *, protocol="strict", **fields):
    common = {
        "head": head,
        "mode": "default",
        "protocol": protocol,
        "backbone": "toy",
        "views": "20x",
        "seed": 0,
        "options": {},
        "control": False,
        "diagnostic": False,
        **fields,
    }
    folds = [{**common, "fold": name, "pcc_slide_mean": score} for name, score in by_patient.items()]
    mean = float(np.mean(list(by_patient.values())))
    return [*folds, {**common, "fold": "all", "pcc_slide_mean": mean, "per_patient": by_patient, **fields}]


def detail(label, gene_pcc, slide_pcc, *, slope=0.9, protocol="strict"):
    bins = Calibration(np.array([-1.0, 0.0, 1.0]), np.array([-0.9, 0.1, 0.8]), np.array([10, 11, 10]), slope)
    return HeadDetail(
        line=(protocol, "toy", "20x", label),
        genes=tuple(f"g{i}" for i in range(len(gene_pcc))),
        gene_pcc=np.array(gene_pcc),
        slides=tuple(f"S{i}" for i in range(len(slide_pcc))),
        slide_pcc=np.array(slide_pcc),
        within=bins,
        whole=dataclasses.replace(bins, slope=1.125),
    )


RIDGE = run("ridge", {"A": 0.3, "B": 0.4}, pcc_pooled=0.5, mse=0.25)
KNN = run("knn", {"A": 0.2, "B": 0.3}, pcc_pooled=0.6)
DENSITY = run("density", {"A": 0.1, "B": 0.1}, control=True, pcc_pooled=0.2)
MEAN = run("patient-mean", {"A": 0.0, "B": 0.0}, control=True, constant=True, pcc_pooled=0.412)
DETAILS = (
    detail("ridge", [0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.4]),
    detail("knn", [0.0, 0.1, 0.2, np.nan, 0.4], [0.2, 0.3]),
    detail("density", [0.1, 0.1, 0.1, 0.1, 0.1], [0.1, np.nan]),
)
CEILING = Ceiling(
    "strict",
    tuple(f"g{i}" for i in range(5)),
    counting=np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
    other_genes=np.array([0.5, 0.6, 0.4, 0.3, 0.2]),
    counting_mean=0.7,
    other_genes_mean=0.4,
)


def comparison(*runs, **fields):
    records = tuple(record for one in runs for record in one)
    blank = Comparison(
        (STRICT,), records, warnings=(), skipped=(), maps=(), provenance={}, details=DETAILS, ceilings=(CEILING,)
    )
    return dataclasses.replace(blank, **fields)


USUAL = comparison(RIDGE, KNN, DENSITY, MEAN)


class Strict(HTMLParser):
    """Fails where a tag is closed that was not open, or left open."""

    def __init__(self, page):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def of(self, tag, style=None):
        return [a for name, a in self.found if name == tag and style in (None, a.get("class"))]


def test_the_page_is_well_formed_and_every_picture_is_in_it_with_words():
    page = report_html(USUAL)

    read = Strict(page)
    pictures = re.findall(r"<svg.*?</svg>(?=</div>|<figcaption>|<p)", page, flags=re.DOTALL)
    assert len(pictures) > 10
    for picture in pictures:
        ElementTree.fromstring(picture)
    assert all(svg.get("aria-label") for svg in read.of("svg") if svg.get("role") == "img")
    assert not re.search(r"https?:|url\(|@import|<script|<link|src=\"(?!data:)", page)
    assert "nan" not in re.sub(r"NaN genes|Pearson over|dominant", "", read.text.replace("finance", "")).split()


def test_the_ceiling_stands_in_the_score_plot_where_it_belongs():
    read = Strict(report_html(USUAL))

    # From -0.042 to 0.742: 6 % of the span from 0 to the ceiling of 0.7 on either side.
    for style, level in (("ceiling", 0.7), ("other-genes", 0.4)):
        lines = read.of("line", style)
        assert len(lines) == 4  # one a row
        for line in lines:
            assert float(line["x1"].rstrip("%")) == pytest.approx(100 * (level + 0.042) / 0.784, abs=0.01)
    assert "ceiling of counting 0.700" in read.text
    assert "Here it is 0.700." in read.text
    assert "Here it is 0.400." in read.text


def test_the_ceiling_is_no_line_above_another_score():
    pooled = dataclasses.replace(STRICT, score="pcc_pooled", headline="pooled over spots")

    read = Strict(report_html(dataclasses.replace(USUAL, protocols=(pooled,))))

    assert read.of("line", "ceiling") == []
    assert "by which this leaderboard does not rank" in read.text
    assert read.of("polyline", "curve ceiling")  # genes are shown by their within-slide score all the same


def test_without_details_or_ceiling_the_report_is_as_before():
    read = Strict(report_html(dataclasses.replace(USUAL, details=(), ceilings=())))

    assert "Every score of every head" in read.text
    for words in ("Scores by gene", "Scores by slide", "Calibration", "ceiling"):
        assert words not in read.text


def test_boxes_over_genes_are_percentiles():
    read = Strict(report_html(USUAL))

    words = [svg["aria-label"] for svg in read.of("svg") if "median gene" in svg.get("aria-label", "")]
    # Of 0.1, 0.2, ... 0.5: quartiles 0.2 and 0.4, and a fifth of a step inside at either end.
    assert words[0] == (
        "ridge: median gene 0.300, half of the genes from 0.200 to 0.400, 5th to 95th percentile 0.120 to 0.480"
    )
    assert words[1].startswith("knn: median gene 0.150,")  # the gene without a score is left out
    assert len(words) == 3


def test_the_number_beside_every_plot_is_that_of_the_table():
    read = re.findall(r'<div class="plot-label">(.*?)</div>.*?<div class="plot-value">(.*?)</div>', report_html(USUAL))

    # By gene, then by slide; the axis of each has no label.
    assert [pair for pair in read if pair[0]] == [("ridge", "0.350"), ("knn", "0.250"), ("density", "0.100")] * 2


def test_slides_are_dots_and_the_lowest_is_named():
    read = Strict(report_html(USUAL))

    assert "ridge, slide S0: 0.300" in read.text
    assert "ridge, slide S1: 0.400" in read.text
    words = [svg["aria-label"] for svg in read.of("svg") if "slides, lowest" in svg.get("aria-label", "")]
    assert words[0] == "ridge: 2 slides, lowest S0 0.300, highest S1 0.400"
    assert words[2] == "density: 1 slides, lowest S0 0.100, highest S0 0.100"


def test_sorted_genes_fall_from_the_best_to_the_worst():
    read = Strict(report_html(USUAL))

    curves = {a["class"]: a["points"] for a in read.of("polyline") if a["class"].startswith("curve ")}
    assert list(curves) == [
        "curve curve-head-0",
        "curve curve-head-1",
        "curve curve-control-2",
        "curve ceiling",
        "curve other-genes",
    ]
    heights = {style: [float(p.split(",")[1]) for p in points.split()] for style, points in curves.items()}
    assert [len(ys) for ys in heights.values()] == [5, 4, 5, 5, 5]
    for ys in heights.values():
        assert ys == sorted(ys)  # y runs downward on a screen
    # Equal steps of the score are equal steps of the picture.
    np.testing.assert_allclose(np.diff(heights["curve curve-head-0"]), np.diff(heights["curve ceiling"]), atol=0.11)


def test_calibration_shows_bins_the_line_of_equality_and_slopes_of_all():
    read = Strict(report_html(USUAL))

    assert len(read.of("circle", "bin")) == 6  # three bins in each of two pictures
    assert "predicted -1.000, measured -0.900, 10 values" in read.text
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in read.of("polyline", "equal")[0]["points"].split())
    assert (x0 < x1, y0 > y1) == (True, True)
    assert "0.900 units above are measured" in read.text
    assert "their slope is 1.125" in read.text
    assert read.text.count("density") > 3


def test_what_pooling_adds_is_said_by_a_control_that_cannot_tell_spots_apart():
    strict = Strict(report_html(USUAL)).text
    shared = [{**record, "protocol": "m"} for record in (*RIDGE, *MEAN)]
    leaky = dataclasses.replace(STRICT, name="m", split="one-slide-a-patient")
    page = Strict(report_html(comparison(shared, protocols=(leaky,)))).text

    said = "patient-mean predicts one value per gene for a whole slide: within slides it scores 0.000, pooled 0.412"
    assert said in strict
    assert said in page
    assert "can be copied" not in strict
    assert "a patient's level can be copied from them: that moves pooled scores and not those within slides" in page
    assert "Pooled scores mix slides" not in report_html(comparison(RIDGE, KNN, DENSITY))


def test_heads_are_ranked_by_the_score_that_the_protocol_names():
    pooled = dataclasses.replace(STRICT, score="pcc_pooled", headline="pooled over spots")
    limits = {"pcc_pooled_low": 0.55, "pcc_pooled_high": 0.65}
    knn = [{**record, **limits} if record["fold"] == "all" else record for record in KNN]
    ranked = comparison(RIDGE, knn, DENSITY, MEAN, protocols=(pooled,))

    (board,) = standings(ranked)
    read = Strict(report_html(ranked))
    table = leaderboard_tables(ranked, width=120)[0]

    assert [(row.label, row.score) for row in board.heads] == [("knn", 0.6), ("ridge", 0.5)]
    assert board.heads[0].interval == (0.55, 0.65)
    assert board.floor == 0.412
    assert board.heads[0].per_patient == {}  # patients' scores are within slides, and no spread of this one
    assert "Ranked by pooled: pooled over spots. 1 is perfect" in read.text
    assert [column.header for column in table.columns][:5] == ["head", "pooled", "95 % interval", "PCC", "median"]
    with pytest.raises(ProtocolError, match="higher is better; mse is none"):
        standings(dataclasses.replace(ranked, protocols=(dataclasses.replace(STRICT, score="mse"),)))


def test_every_score_of_every_head_is_in_a_table_with_its_meaning():
    read = Strict(report_html(USUAL))

    assert "Every score of every head" in read.text
    assert "Mean squared error over spots and genes, slide offset included; lower is better" in read.text
    assert set(SHORT_NAMES) == set(SCORE_RULES)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_has_words_for_all_that_it_says(name):
    protocol = get_protocol(name)
    records = run("ridge", {"A": 0.3}, protocol=name, **{protocol.score: 0.3})

    words = " ".join(protocol_sentences(protocol))
    page = Strict(report_html(comparison(records, protocols=(protocol,)))).text

    assert protocol.headline in words
    assert "None" not in words
    assert "Split:" not in words  # a split without a sentence would be named bare
    assert ("test slides too" in words) == (protocol.panel_slides == "all")
    assert ("3 x 3" in words) == (protocol.smoothing == "all")
    for said in (*protocol.leaks, *protocol.declares, protocol.adapted):
        assert said in page


def test_licences_are_said_and_what_they_exclude():
    said = licence_sentences({"licences": {"uni2-h": "CC-BY-NC-ND-4.0", "stain-texture": "Apache-2.0", "mine": None}})

    assert said == (
        "Features of uni2-h: CC-BY-NC-ND-4.0. It excludes commercial use, of heads trained on these features as well.",
        "Features of stain-texture: Apache-2.0.",
        "Features of mine: no licence is recorded; find out what its weights allow before sharing results.",
    )
    assert licence_sentences({}) == ()
    assert "Licences that apply" in report_html(comparison(RIDGE, provenance={"licences": {"a": "MIT"}}))


def test_names_from_outside_cannot_break_out_of_the_plots():
    odd = dataclasses.replace(DETAILS[0], line=("strict", "toy", "20x", EVIL), slides=(EVIL, "S1"))
    page = report_html(
        comparison(run(EVIL, {EVIL: 0.3}, pcc_pooled=0.3), MEAN, details=(odd,), provenance={"licences": {EVIL: EVIL}})
    )

    read = Strict(page)
    assert "<script" not in page
    assert not any(name.startswith("on") for _, attributes in read.found for name in attributes)
    assert f"{EVIL}, slide {EVIL}: 0.300" in read.text


def test_the_style_knows_the_dark_and_paper():
    page = report_html(USUAL)

    assert "color-scheme: light dark" in page
    # Dark colours are the screen's alone: paper is white.
    assert "@media screen and (prefers-color-scheme: dark)" in page
    colours = re.findall(r"#[0-9a-f]{3,6}", re.sub(r":root \{.*?\}", "", page, flags=re.DOTALL))
    assert set(colours) <= {"#fff"}  # the ground of the maps and of paper; all else is a variable
