"""`tissuary index` and `tissuary search` as a user runs them: words, files, exit codes, contact sheets."""

import base64
import io
import json
import re
import sys
from dataclasses import replace

import numpy as np
import polars
import pytest
from PIL import Image

from tissuary.cli.main import main
from tissuary.featurize.ingest import source_digest
from tissuary.store import Store
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import features_path, slide_path
from tissuary.store.files.slide import read_slide, write_slide

KEY = "toy@20x"
SIDE_PX = 1600
BLOCK_PX = 400


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


def add_key(store, slide, key, shape, *, fingerprint="other"):
    header = replace(store.header(KEY, slide), fingerprint=fingerprint)
    with write_features(features_path(store.path, slide, key=key), header, shape=shape) as writer:
        writer.append(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def test_index_says_what_became_of_it_and_keeps_its_settings(run, make_store):
    root = make_store({"a1": ("A", 40), "b1": ("B", 40)}, n_genes=5).path
    code, out, _ = run("index", root, "--standardise", "slide", "--metric", "ip")
    assert code == 0
    assert "index spots.toy@20x: 80 patches of 2 slides, exact, ip, standardised within each slide\n  built\n" in out
    assert "  unchanged\n" in run("index", root)[1]
    make_store({"d1": ("D", 30)}, seed=5)
    code, out, _ = run("index", root)
    assert "110 patches of 3 slides, exact, ip, standardised within each slide\n  1 slide added: d1\n" in out
    out = run("index", root, "--standardise", "cohort")[1]
    assert "built, as its standardised was slide, now cohort" in out
    assert "built, as a rebuild was asked for" in run("index", root, "--rebuild")[1]
    assert run("index", root, "--standardise", "patient")[0] == 2
    assert run("index", root, "--recall", "7")[0] == 2


def test_index_reports_mixing_beside_what_perfect_mixing_would_give(run, make_store):
    """Slides of `make_store` differ by shift and scale: seen over the cohort, gone within slides."""
    root = make_store({f"s{i}": (f"P{i // 2}", 120) for i in range(6)}, n_genes=5).path
    apart = run("index", root)[1]
    assert re.search(
        r"\d+% of them are of the patch's own slide, 17% would be under perfect mixing: slides stand", apart
    )
    better = re.search(r"--standardise slide` mixes them better \(separation (\S+) as it is, (\S+) with `--st", apart)
    assert float(better[2]) < 0.1 < float(better[1]) - 0.05
    mixed = json.loads(run("index", root, "--standardise", "slide", "--json")[1])[0]
    assert mixed["mixing"]["slide"]["expected"] == pytest.approx(119 / 719)
    assert "own slide, 17% would be under perfect mixing: slides mix" in run("index", root)[1]
    one = run("index", make_store({"z1": ("Z", 9)}).path, "--json")
    assert json.loads(one[1])[0]["added"] == ["z1"]


def test_a_standardisation_that_mixes_slides_worse_is_not_advised(run, make_store):
    """Slides of two kinds of tissue, unevenly: z-scored within themselves, shared tissue gets another place in each."""
    store = make_store({f"s{i}": (f"unknown:s{i}", 60) for i in range(3)}, n_genes=5)
    tissue = np.random.default_rng(0).normal(size=(2, 8)) * 6
    for slide, share in (("s0", 0.1), ("s1", 0.5), ("s2", 0.9)):
        kind = (np.arange(60) < share * 60).astype(int)
        rows = tissue[kind] + 0.1 * np.random.default_rng(int(10 * share)).normal(size=(60, 8))
        remake(store, slide, rows=rows)
    out = run("index", store.path, "--standardise", "slide")[1]
    now, other = map(float, re.search(r"separation (\S+) as it is, (\S+) with `--standardise cohort`", out).groups())
    assert other < now - 0.05
    assert "`--standardise cohort` mixes them better" in out
    assert "standardise slide" not in out
    assert "the patient of every slide is unknown: each counts as a patient of its own" in out
    assert "--exclude patient" not in out
    out = run("index", store.path, "--standardise", "cohort")[1]
    assert "another `--standardise` would not mix them better" in out or "slides mix\n" in out
    made = json.loads(run("index", store.path, "--json")[1])[0]
    assert made["mixing"]["compared"] == pytest.approx({"cohort": other, "slide": now}, abs=0.005)


def test_what_was_searched_and_how_stands_with_the_look_alikes(run, make_store, caplog):
    root = make_store(
        {"a-long-name-of-slide-1": ("A", 25), "a-long-name-of-slide-2": ("unknown:x", 30)}, n_genes=5
    ).path
    run("index", root, "--standardise", "slide")
    words = ("search", root, "--slide", "a-long-name-of-slide-1", "--patch", 3, "-k", 40, "--exclude", "patient")
    code, out, _ = run(*words)
    assert code == 0
    head, names, *lines, how = out.splitlines()
    assert (head, names.split()[:3]) == ("toy@20x a-long-name-of-slide-1:3", ["rank", "slide", "patient"])
    assert {line.split()[1] for line in lines} == {"a-long-name-of-slide-2"}
    assert (
        how == "distance is 1 - cosine (0 to 2) of features standardised within each slide; every patch was looked at"
    )
    warning = "the patient of 1 of 2 slides is unknown (a-long-name-of-slide-2): they may be of the query's own"
    assert warning in caplog.text
    told = json.loads(run(*words, "--json")[1])
    assert (told["distance"], told["warnings"]) == (how, [f"{warning}, and are not left out"])
    assert {**told["index"], "fingerprint": ""} == {
        "name": "spots.toy@20x", "kind": "exact", "metric": "cosine", "standardised": "slide", "fingerprint": "",
        "slides": 2, "rows": 55, "recall": 1.0,
    }  # fmt: skip


def test_the_recall_of_an_approximate_index_is_said(run, make_store):
    root = make_store({"a1": ("A", 300), "b1": ("B", 300)}, n_genes=5).path
    run("index", root, "--kind", "ivf", "--recall", "0.9")
    words = ("search", root, "--slide", "a1", "--patch", 3, "--exclude", "slide", "--json")
    told = json.loads(run(*words)[1])
    assert 0.9 <= told["index"]["recall"] <= 1
    said = f"approximate: {told['index']['recall']:.1%} of the true 10 nearest were found when the index was built"
    assert said in told["distance"]
    exact = json.loads(run(*words, "--exact")[1])
    assert (exact["index"]["recall"], "every patch was looked at" in exact["distance"]) == (1.0, True)


def test_one_image_under_two_ids_is_said_and_left_out(run, make_store):
    store = make_store({"a1": ("A", 20), "copy": ("B", 20), "c1": ("C", 20)}, n_genes=5)
    for slide in ("a1", "copy"):
        repaint(store, slide, thumbnail=None, source_digest="5" * 64)
        remake(store, slide, rows=np.array(store.features(KEY, "a1")), source_digest="5" * 64)
    assert "  a1, copy are one image: `--exclude` leaves them out together" in run("index", store.path)[1]
    words = ("search", store.path, "--slide", "a1", "--patch", 4, "-k", 5, "--json")
    told = json.loads(run(*words)[1])
    (first, *_) = told["hits"]
    assert (first["slide_id"], first["patch"], first["distance"]) == ("copy", 4, pytest.approx(0, abs=1e-6))
    assert told["warnings"] == ["slide a1 is the same image as copy: its own patches come back as look-alikes"]
    for exclude in ("slide", "patient"):
        told = json.loads(run(*words, "--exclude", exclude)[1])
        assert {hit["slide_id"] for hit in told["hits"]} == {"c1"}
        assert told["warnings"] == [f"slide a1 is the same image as copy: left out with `--exclude {exclude}`"]


def test_index_of_one_patient_says_that_there_is_nothing_to_mix(run, make_store):
    out = run("index", make_store({"a1": ("A", 20)}, n_genes=5).path)[1]
    assert "one slide only: there is nothing to mix" in out
    assert "one patient only: there is nothing to mix" in out


def test_index_prints_the_measured_recall_of_inverted_lists(run, make_store):
    root = make_store({"a1": ("A", 300), "b1": ("B", 300)}, n_genes=5).path
    out = run("index", root, "--kind", "ivf", "--recall", "0.9")[1]
    assert "recall@10 measured on 600 of its patches, 0.9 asked for:" in out
    shares = [float(x) for x in re.findall(r"(?:allowed|left out): (\d\.\d{4}), looking at \d+ of 15 lists", out)]
    assert len(shares) == 3
    assert min(shares) >= 0.9
    made = json.loads(run("index", root, "--json")[1])[0]
    assert (made["kind"], made["ivf"]["target"], made["done"]) == ("ivf", 0.9, "unchanged")


def test_index_goes_on_with_other_keys_and_names_what_failed(run, make_store):
    store = make_store({"a1": ("A", 20), "b1": ("B", 25)}, n_genes=5)
    add_key(store, "a1", "tok@20x.grid2x2", (20, 4, 3))
    add_key(store, "a1", "bad@20x", (20, 3), fingerprint="one")
    add_key(store, "b1", "bad@20x", (25, 3), fingerprint="two")
    code, out, err = run("index", store.path, "--json")
    assert code == 1
    assert [one["key"] for one in json.loads(out)] == [KEY]
    assert "skipped tok@20x.grid2x2: it holds token grids" in err
    assert "FAILED bad@20x: " in err
    assert run("index", store.path, "--key", "bad@20x")[0] == 2
    code, _, err = run("index", store.path, "--patches", "grid-9um")
    assert (code, "no patch set 'grid-9um': there are spots; choose one with `--patches spots`" in err) == (2, True)


@pytest.fixture
def indexed(run, make_store):
    store = make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28)}, n_genes=5)
    run("index", store.path)
    return store


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_whole_slide_is_written_one_row_a_patch_and_rank(run, indexed, tmp_path, suffix):
    out = tmp_path / f"found{suffix}"
    words = ("search", indexed.path, "--slide", "b1", "--all", "-k", 6, "--exclude", "patient", "--out", out)
    code, _, err = run(*words)
    assert code == 0
    assert f"wrote 168 look-alikes of 28 patches of b1 to {out}" in err
    frame = polars.read_csv(out) if suffix == ".csv" else polars.read_parquet(out)
    wanted = indexed.search_slide("b1", k=6, key=KEY, exclude="patient").frame()
    assert frame.columns == wanted.columns
    assert frame.shape == (168, 9)
    for name in wanted.columns:
        if frame[name].dtype.is_float():
            np.testing.assert_allclose(frame[name], wanted[name], rtol=1e-6)
        else:
            assert frame[name].to_list() == wanted[name].to_list()
    summary = json.loads(run(*words, "--json")[1])
    assert (summary["patches"], summary["rows"]) == (28, 168)


def test_one_patch_is_written_in_the_same_columns(run, indexed, tmp_path):
    words = ("search", indexed.path, "--slide", "b1", "-k", 4)
    run(*words, "--patch", 5, "--out", tmp_path / "one.parquet")
    run(*words, "--all", "--out", tmp_path / "all.parquet")
    one, every = (polars.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "all"))
    assert one.schema == every.schema
    assert one.equals(every.filter(polars.col("patch") == 5))
    barcode = indexed.patches("b1").barcode[5]
    hits = json.loads(run(*words, "--patch", barcode, "--json")[1])
    assert hits["query"]["patch"] == 5
    assert [hit["patch"] for hit in hits["hits"]] == one["neighbour_patch"].to_list()


def test_fewer_than_k_are_said_with_their_reason(run, indexed):
    words = ("search", indexed.path, "--slide", "b1", "--patch", 0, "-k", 500)
    code, out, err = run(*words, "--json")
    assert (code, len(json.loads(out)["hits"])) == (0, 82)
    assert "82 look-alikes, not 500: the index of toy@20x has no other patches" in err
    err = run(*words, "--exclude", "patient")[2]
    assert "55 look-alikes, not 500: the index of toy@20x has no other patches that are not of patient B" in err
    assert "look-alikes, not" not in run("search", indexed.path, "--slide", "b1", "--patch", 0, "-k", 55)[2]


def test_nothing_left_is_said_with_its_reason(run, make_store, tmp_path):
    root = make_store({"a1": ("A", 9), "a2": ("A", 9)}, n_genes=5).path
    run("index", root)
    code, out, err = run("search", root, "--slide", "a1", "--patch", 0, "--exclude", "patient", "--json")
    assert (code, json.loads(out)["hits"]) == (0, [])
    assert (
        "0 look-alikes, not 10: every patch in the index of toy@20x is of patient A, which `--exclude patient`" in err
    )
    out = tmp_path / "none.csv"
    err = run("search", root, "--slide", "a1", "--all", "--exclude", "patient", "--out", out)[2]
    assert "0 look-alikes a patch, not 10: every patch" in err
    assert out.read_text().startswith("slide_id,patch,rank,")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say which patch looks for look-alikes"),
        (("--patch", 1, "--all", "--out", "x.csv"), "say which patch looks for look-alikes"),
        (("--all",), "say where to"),
        (("--all", "--out", "x.csv", "--report", "x.png"), "`--report` draws one query"),
        (("--patch", 1, "--out", "x.xlsx"), "choose a file that ends in .parquet or .csv"),
        (("--patch", 1, "--report", "x.pdf"), "choose a file that ends in .html, .png, .jpg, .jpeg"),
        (("--patch", 1, "--exclude", "cohort"), "exclude 'cohort': choose patient or slide"),
        (("--patch", "nowhere"), "has no patch 'nowhere'"),
        (("--patch", 99), "has patches 0 to 27, not 99"),
        (("--patch", 1, "--device", "tpu"), "device 'tpu': choose auto, cpu or cuda"),
        (
            ("--patch", 1, "--key", "other@20x"),
            "has no features 'other@20x' on 'spots': there are haematoxylin@20x, toy@20x",
        ),
    ],
)
def test_requests_that_cannot_be_met_are_refused(run, indexed, words, message):
    code, _, err = run("search", indexed.path, "--slide", "b1", *words)
    assert code == 2
    assert message in err


@pytest.fixture(scope="module")
def colours():
    """A colour for each of nine patches of two slides, far from one another."""
    values = np.random.default_rng(3).permutation(
        [(r, g, b) for r in (20, 130, 240) for g in (20, 130, 240) for b in (20, 240)]
    )
    return {"a1": values[:9], "b1": values[9:]}


@pytest.fixture
def painted(make_store, run, colours, tmp_path):
    """A store of two slides whose images are blocks of one colour, one block around each patch."""
    store = make_store({"a1": ("A", 9), "b1": ("B", 9)}, n_genes=5)
    for slide, values in colours.items():
        pixels = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
        for (x, y), colour in zip(store.patches(slide).center_px.astype(int), values, strict=True):
            pixels[y - BLOCK_PX // 2 : y + BLOCK_PX // 2, x - BLOCK_PX // 2 : x + BLOCK_PX // 2] = colour
        image = tmp_path / f"{slide}.png"
        Image.fromarray(pixels).save(image)
        digest = source_digest(image)
        repaint(store, slide, source=str(image), source_digest=digest, thumbnail=pixels[::8, ::8])
        remake(store, slide, source_digest=digest)
    code, _, err = run("index", store.path)
    assert code == 0, err
    return store


def remake(store, slide, *, rows=None, **fields):
    """Write the features of a slide again, or others, under a header with other fields."""
    header = replace(store.header(KEY, slide), **fields)
    rows = np.array(store.features(KEY, slide)) if rows is None else rows
    path = features_path(store.path, slide, key=KEY)
    path.unlink()
    with write_features(path, header, shape=rows.shape) as writer:
        writer.append(rows.astype(np.float32))


def repaint(store, slide, *, thumbnail, **fields):
    path = slide_path(store.path, slide)
    record = replace(read_slide(path), width_px=SIDE_PX, height_px=SIDE_PX, **fields)
    path.unlink()
    write_slide(path, record, thumbnail=thumbnail)


def pictures_of(page):
    """Mean colours (n, 3) of the pictures in a page, and how much each varies."""
    found = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    arrays = [np.asarray(Image.open(io.BytesIO(data))).reshape(-1, 3).astype(float) for data in found]
    return np.array([a.mean(0) for a in arrays]), max(a.std(0).max() for a in arrays)


def drawn(run, store, path, *words):
    code, out, err = run(
        "search", store.path, "--slide", "a1", "--patch", 4, "-k", 7, "--report", path, "--json", *words
    )
    assert code == 0, err
    return [("a1", 4), *((hit["slide_id"], hit["patch"]) for hit in json.loads(out)["hits"])]


@pytest.mark.parametrize("origin", ["slide", "thumbnail"])
def test_the_sheet_shows_the_query_and_its_look_alikes_in_order(run, painted, colours, tmp_path, origin):
    if origin == "thumbnail":
        (tmp_path / "a1.png").unlink()
        (tmp_path / "b1.png").unlink()
    order = drawn(run, painted, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    means, spread = pictures_of(page)
    np.testing.assert_allclose(means, [colours[slide][patch] for slide, patch in order], atol=3)
    assert spread < 3  # a field of 224 px lies within its block of 400
    assert page.count("from the thumbnail") == (8 if origin == "thumbnail" else 0)
    assert ("a1.png&#x27; is not at hand; cut from the stored thumbnail" in page) == (origin == "thumbnail")
    assert "7 of 7 look-alikes among 18 patches of 2 slides; distance is 1 - cosine" in page


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_sheet_is_a_picture_too(run, painted, colours, tmp_path, suffix):
    path = tmp_path / f"sheet{suffix}"
    order = drawn(run, painted, path, "--exclude", "patient")
    assert {slide for slide, _ in order[1:]} == {"b1"}
    pixels = np.asarray(Image.open(path)).astype(int)
    for slide in colours:
        for patch, colour in enumerate(colours[slide]):
            count = (np.abs(pixels - colour).max(axis=2) <= 4).sum()
            assert (count >= 0.95 * 224 * 224) == ((slide, patch) in order)


def test_an_image_that_is_not_the_one_of_the_features_is_not_shown(run, painted, tmp_path):
    Image.new("RGB", (SIDE_PX, SIDE_PX), "black").save(tmp_path / "b1.png")
    (tmp_path / "a1.png").unlink()
    repaint(painted, "a1", thumbnail=None)
    order = drawn(run, painted, tmp_path / "sheet.html", "-k", 17)
    page = (tmp_path / "sheet.html").read_text()
    assert "b1.png is not the image that the features were made from; cut from the stored thumbnail" in page
    assert "is not at hand; there is no thumbnail either" in page
    assert page.count("no picture") == [slide for slide, _ in order].count("a1")
    assert not (pictures_of(page)[0] < 5).all(axis=1).any()


def test_a_sheet_of_many_draws_the_first_ones(run, make_store, tmp_path):
    root = make_store({"a1": ("A", 150)}, n_genes=5).path
    run("index", root)
    run("search", root, "--slide", "a1", "--patch", 3, "-k", 149, "--report", tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert len(pictures_of(page)[0]) == 120
    assert "Drawn are the first 119." in page


def test_the_finest_indexed_view_is_searched_where_no_key_is_given(run, make_store):
    root = make_store({"a1": ("A", 12), "b1": ("B", 12)}, views=("20x", "5x"), n_genes=5).path
    run("index", root)
    words = ("search", root, "--slide", "a1", "--patch", 0, "--json")
    assert json.loads(run(*words)[1])["query"]["key"] == "toy@20x"
    store = Store(root)
    for slide in ("a1", "b1"):
        add_key(store, slide, "zoo@20x", (12, 4))
    run("index", root)
    code, _, err = run(*words)
    assert code == 2
    assert "several encoders are indexed on 'spots', toy@20x, toy@5x, zoo@20x: choose one with `--key toy@20x`" in err
