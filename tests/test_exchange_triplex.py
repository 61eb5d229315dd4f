"""TRIPLEX embeddings into a store: rows found by barcode, tiles around a spot as a layout of their own."""

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.tests.foreign_files import bring, contents, only, refusal, run_command, triplex, vectors

SAID = {"encoder": "uni_v1", "patch_px": 224.0}


@pytest.fixture
def store(make_store):
    return make_store({"a1": ("A", 9)})


@pytest.fixture
def source(tmp_path):
    return tmp_path / "input"


def squares(n, side=5, dim=4):
    return np.random.default_rng(1).normal(size=(n, side * side, dim)).astype(np.float32)


def test_rows_are_found_by_barcode(store, source):
    place, turned = store.patches("a1"), np.random.default_rng(0).permutation(9)
    values = vectors(9)
    triplex(source, "a1", values, barcodes=place.barcode[turned].astype("S").reshape(-1, 1))
    before = contents(store.path)
    done = only(bring(source, store.path, "triplex", **SAID))
    assert (done.key, done.patches) == ("uni_v1@112um-0.5", "spots")
    assert done.notes == ("rows were put into the order of the store's patch set",)
    assert done.declared == ("encoder=uni_v1", "patch_px=224.0")
    back = Store(store.path)
    assert back.features(done.key, "a1").tobytes() == values[np.argsort(turned)].tobytes()
    assert before.items() <= contents(store.path).items()
    assert back.table(["toy@20x", done.key]).features(done.key).shape == (9, 6)


@pytest.mark.parametrize("barcodes", [None, np.zeros((1, 3), np.float32)])
def test_rows_without_names_are_the_stores_own_and_that_is_said(store, source, barcodes):
    """Of patches without barcodes TRIPLEX writes zeros in their place."""
    values = vectors(9, dtype=np.float16)
    triplex(source, "a1", values, barcodes=barcodes)
    done = only(bring(source, store.path, "triplex", **SAID))
    assert done.notes == ("rows were taken to be the store's spots in their order: the file names none",)
    found = Store(store.path).features(done.key, "a1")
    assert (found.dtype, found.tobytes()) == (np.float16, values.tobytes())


def test_tiles_around_a_spot_are_a_layout(store, source):
    place, values = store.patches("a1"), squares(9)
    triplex(source, "a1", values, barcodes=place.barcode.astype("S").reshape(-1, 1))
    done = only(bring(source, store.path, "triplex", encoder="uni_v1", patch_px=256.0))
    assert done.key == "uni_v1@128um-0.5.tiles5x5"
    assert "mask_tb marks 5 tiles as absent" in done.notes[1]
    assert Store(store.path).features(done.key, "a1").tobytes() == values.tobytes()


def test_both_kinds_cannot_share_a_declared_side(store, source):
    names = store.patches("a1").barcode.astype("S").reshape(-1, 1)
    triplex(source, "a1", vectors(9), barcodes=names)
    triplex(source, "a1", squares(9), barcodes=names)
    report = bring(source, store.path, "triplex", **SAID)
    assert [done.key for done in report.done] == ["uni_v1@112um-0.5"]
    assert "it lies in a folder 'neighbor/uni_v1', the files before it in 'global/uni_v1'" in report.failed[0][1]
    assert "import one of them at a time" in report.failed[0][1]


@pytest.mark.parametrize(
    ("values", "barcodes", "match"),
    [
        (vectors(8), None, "8 rows of features, the store has 9 spots"),
        (vectors(9), [["0x0"]] * 9, "barcodes repeat; TRIPLEX file and store must hold the same spots"),
        (vectors(9), [[f"spot{i}"] for i in range(9)], "barcodes spot0, spot1, spot2 are no spots of the store"),
        (vectors(9), [["0x0"]] * 8, "9 rows of features, 8 barcodes"),
        (squares(9)[:, :24], None, "24 vectors a spot are no square of tiles"),
    ],
)
def test_rows_that_are_not_the_spots_are_refused(store, source, values, barcodes, match):
    path = triplex(source, "a1", values, barcodes=None if barcodes is None else np.array(barcodes, dtype="S"))
    before = contents(store.path)
    assert match in refusal(bring(path, store.path, "triplex", **SAID))
    assert contents(store.path) == before


def test_what_is_not_declared_is_refused(store, source, tmp_path):
    triplex(source, "a1", vectors(9))
    said = ("import", source, "--format", "triplex", "--store")
    for options, match in (
        ((), "declare it with --encoder NAME"),
        (("--encoder", "uni_v1"), "does not say how large a patch is: declare the side in level-0 pixels"),
        (("--encoder", "uni_v1", "--patch-px", "224", "--mpp", "0.25"), "the store has it at 0.5 um/px"),
    ):
        code, _, err = run_command(*said, store.path, *options)
        assert (code, match in err) == (2, True), err
    code, _, err = run_command(*said, tmp_path / "b", "--encoder", "uni_v1", "--patch-px", "224", "--mpp", "0.5")
    assert code == 2
    assert "the store has no spots of the slide: featurize the slide, or import its patches" in err
    assert not (tmp_path / "b").exists()
    code, _, err = run_command(*said, store.path, "--encoder", "uni_v1", "--patch-px", "224")
    assert code == 0, err


def test_importing_again_and_other_values(store, source):
    path = triplex(source, "a1", vectors(9))
    assert only(bring(path, store.path, "triplex", **SAID)).written
    before = contents(store.path)
    assert not only(bring(path, store.path, "triplex", **SAID)).written
    triplex(source, "a1", vectors(9, seed=3))
    assert "holds other features of this slide" in refusal(bring(path, store.path, "triplex", **SAID))
    assert contents(store.path) == before
