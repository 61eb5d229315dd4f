"""The commands as a user runs them: words, exit codes, and JSON that a program can read."""

import json
import sys

import numpy as np
import pytest

from tissuary.cli.lists import expand_lists
from tissuary.cli.main import main
from tissuary.synthetic.cohort import write_cohort


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; returns exit code, stdout and stderr."""

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return go


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), patients=3, slides_per_patient=1, spots_per_side=4)


@pytest.mark.parametrize(
    ("words", "expanded"),
    [
        ("--views 20x 10x SOURCE", "--views 20x --views 10x SOURCE"),
        ("--views 224um-4.7 --store S", "--views 224um-4.7 --store S"),
        ("SOURCE --views native 5x -v", "SOURCE --views native --views 5x -v"),
        ("--heads ridge knn store", "--heads ridge --heads knn store"),
        ("--heads all store", "--heads all store"),
        ("--protocol strict strict-slide S", "--protocol strict --protocol strict-slide S"),
        ("--weights a=b c=d S", "--weights a=b --weights c=d S"),
        ("--backbone stain-texture m.json S", "--backbone stain-texture --backbone m.json S"),
        ("--out ridge knn", "--out ridge knn"),
        ("--views 20x,10x SOURCE", "--views 20x --views 10x SOURCE"),
        ("--heads ridge,knn mlp store", "--heads ridge --heads knn --heads mlp store"),
        ("--heads nh2st:neighbours=both,anchor=ridge S", "--heads nh2st:neighbours=both,anchor=ridge S"),
        ("--grid-um 112,448 --slides C2,C3", "--grid-um 112 --grid-um 448 --slides C2 --slides C3"),
        ("--weights a=b,c=d S", "--weights a=b,c=d S"),
    ],
)
def test_lists_take_values_of_their_kind_and_leave_the_rest(words, expanded):
    assert expand_lists(words.split()) == expanded.split()


def test_the_verbs_in_their_order_make_a_report(run, cohort, tmp_path):
    store = tmp_path / "store"
    code, out, err = run("featurize", cohort, "--store", store, "--views", "20x", "5x", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [slide["slide_id"] for slide in report["done"]] == ["P01-S1", "P02-S1", "P03-S1"]
    assert "licence of stain-texture: Apache-2.0" in err

    code, out, err = run("status", store, "--json")
    status = json.loads(out)
    assert (code, status["slides"], status["patients"], status["with_counts"]) == (0, 3, 3, 3)
    assert [row["key"] for row in status["features"]] == [
        "haematoxylin@20x",
        "stain-texture@20x",
        "stain-texture@5x",
    ]
    assert "3 slides of 3 patients (0 unknown), 3 with counts" in run("status", store)[1]

    code, out, err = run("index", store, "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == ["spots.stain-texture@20x", "spots.stain-texture@5x"]

    code, out, err = run(
        "search", store, "--slide", "P01-S1", "--patch", "2", "-k", "4", "--exclude", "patient", "--json"
    )
    hits = json.loads(out)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert all(hit["patient_id"] != "P01" for hit in hits)

    code, out, err = run("compare", store, "--heads", "ridge", "--out", tmp_path / "report")
    assert code == 0, err
    assert out.strip().endswith("report.html")
    assert (tmp_path / "report" / "results.json").exists()


def test_json_keeps_stdout_clean_and_nan_becomes_null(run, cohort, tmp_path):
    run("featurize", cohort, "--store", tmp_path / "s", "--views", "20x")
    code, out, _ = run("compare", tmp_path / "s", "--heads", "ridge", "--out", tmp_path / "r", "--json")
    records = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0
    assert {"ridge", "mean", "density"} <= {record["head"] for record in records}
    assert len({record["fold"] for record in records}) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "nowhere"), "is no store"),
        (("featurize", "nowhere", "--store", "s"), "nowhere"),
        (("protocols", "loose"), "strict, strict-slide"),
        (("featurize", "x", "--store", "s", "--layout", "spiral"), "choose one of context, zoom"),
        (("featurize", "x", "--store", "s", "--weights", "uni"), "wanted KEY=PATH"),
        (("featurize", "x"), "--store"),
        (("search", "nowhere", "--slide", "a", "--patch", "0"), "is no store"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_clear_message(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_some_failed_slides_end_with_code_1(run, cohort, tmp_path):
    lines = cohort.read_text().splitlines()
    folder = cohort.parent
    lines[1] = lines[1].replace("images/P01-S1.tif", "images/none.tif")
    manifest = folder / "one_missing.csv"
    manifest.write_text("\n".join(lines) + "\n")
    code, _, err = run("featurize", manifest, "--store", tmp_path / "s", "--views", "20x")
    assert code == 1
    assert "FAILED P01-S1" in err
    assert "none.tif" in err


def test_demo_on_slides_without_counts_stops_after_the_features(run, real_data, tmp_path):
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    code, out, err = run("demo", "--data", slide, "--views", "5x", "--out", tmp_path / "d")
    assert (code, out) == (0, "")
    assert "no heads to compare" in err


def test_demo_does_not_mix_two_cohorts(run, cohort, real_data, tmp_path):
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    assert run("demo", "--data", slide, "--views", "5x", "--out", tmp_path / "d")[0] == 0
    code, _, err = run("demo", "--data", cohort, "--views", "5x", "--out", tmp_path / "d")
    assert code == 2
    assert "holds another cohort (CMU-1-Small-Region, ...): choose another folder" in err


def test_version_is_printed(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("tissuary 0.")


def test_protocols_print_what_leaks(run):
    code, out, _ = run("protocols")
    assert code == 0
    assert "sections of one tumour are no test of generalisation" in out
    assert "genes chosen on test" in out
    names = [one["name"] for one in json.loads(run("protocols", "--json")[1])]
    assert names[:2] == ["strict", "strict-slide"]
    papers = ("mmap", "m2ort", "nh2st", "cmrc")
    assert set(names[2:]) == {"hest-bench/a1", "hest-bench/a2", *(f"{one}-paper" for one in papers)}


def test_search_for_a_spot_of_c2_agrees_with_brute_force(run, real_data, tmp_path):
    """All real sections; the top ten against numpy over the same standardised features."""
    store = tmp_path / "store"
    code, _, err = run("featurize", real_data / "her2st", "--pitch-um", 200, "--store", store, "--views", "5x")
    assert code == 0, err
    run("index", store)
    from tissuary.store import Store

    opened = Store(store)
    slides = opened.slide_ids
    assert slides == ("B4", "C2", "C3", "C4", "C5")
    parts = [np.asarray(opened.features("stain-texture@5x", slide), dtype=np.float64) for slide in slides]
    assert [len(part) for part in parts] == [283, 187, 180, 184, 181]
    rows = np.concatenate(parts)
    rows = (rows - rows.mean(0)) / rows.std(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    slide = np.repeat(slides, [len(part) for part in parts])
    patch = np.concatenate([np.arange(len(part)) for part in parts])
    query = np.flatnonzero((slide == "C2") & (patch == 17))[0]
    for exclude, allowed in (
        (None, np.arange(len(rows)) != query),
        ("slide", slide != "C2"),
        ("patient", slide == "B4"),
    ):
        best = np.argsort(-np.where(allowed, rows @ rows[query], -np.inf), kind="stable")[:10]
        words = ["search", store, "--slide", "C2", "--patch", "17", "-k", "10", "--json"]
        hits = json.loads(run(*words, *(["--exclude", exclude] if exclude else []))[1])["hits"]
        assert [(hit["slide_id"], hit["patch"]) for hit in hits] == list(zip(slide[best], patch[best], strict=True))
    barcode = str(opened.patches("C2").barcode[17])
    assert json.loads(run("search", store, "--slide", "C2", "--patch", barcode, "--json")[1])["query"]["patch"] == 17
