"""Verify: every flipped byte, cut file and disagreement of a store is found, and named with its place."""

import json
import shutil
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tissuary.benchmarks.h5_bytes import changed
from tissuary.cli.main import main
from tissuary.store import Store
from tissuary.store.catalog_file import read_columns, write_columns
from tissuary.store.errors import StoreError
from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.features import read_features, write_features
from tissuary.store.files.patches import Patches, read_patches, write_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path, slide_path
from tissuary.store.files.slide import read_slide, write_slide
from tissuary.store.verify.verify import examine_store, verify_store

KEY = "toy@20x"


@pytest.fixture
def store(make_store):
    """Three slides with counts; 300 rows are two blocks of features. Slide a1 has nested grids too."""
    store = make_store({"a1": ("A", 300), "a2": ("A", 30), "b1": ("B", 28)}, dim=4, n_genes=20)
    coarse = Patches(np.array([[400.0, 400.0], [1200.0, 400.0]]), np.array(["0x0", "0x1"]))
    fine = Patches(
        np.stack([np.arange(4) * 400.0 + 200, np.full(4, 200.0)], axis=1),
        np.array(["0x0", "0x1", "0x2", "0x3"]),
        np.stack([np.zeros(4), np.arange(4)], axis=1),
        np.array([0, 0, 1, -1]),
        "grid-400um",
    )
    write_patches(patches_path(store.path, "a1", patches="grid-400um"), coarse, slide_id="a1")
    write_patches(patches_path(store.path, "a1", patches="grid-200um"), fine, slide_id="a1")
    assert store.entries
    return store


def found(store, path):
    """The problems of one file, relative to the store; every other file must be whole."""
    problems = verify_store(store.path)
    assert {problem.path for problem in problems} == {path}, problems
    return problems


def rewrite(path, write, *words, **options):
    path.unlink()
    write(path, *words, **options)


def forget_catalog(store):
    for name in ("catalog.parquet", "catalog.json"):
        (store.path / name).unlink()


def test_a_whole_store_has_no_problems_and_is_left_as_it_was(store):
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    found = examine_store(store.path)
    assert (found.problems, found.notes) == ((), ())
    assert found.files == len(store.entries) == 3 * 5 + 2
    assert found.size_bytes == sum((store.path / entry.path).stat().st_size for entry in store.entries)
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_nan_rows_are_named_although_their_checksum_is_right(store):
    path = features_path(store.path, "a1", key=KEY)
    header, values = read_features(path).header, np.array(read_features(path).features)
    values[260, 2], values[262, 0] = np.nan, -np.inf
    path.unlink()
    with write_features(path, header, shape=values.shape) as writer:
        writer.append(np.zeros(values.shape, np.float32))
    with path.open("r+b") as file, h5py.File(path) as h5:
        import zlib

        sums = [zlib.crc32(values[:256].tobytes()), zlib.crc32(values[256:].tobytes())]
        for name, content in (("features", values.tobytes()), ("crc32", np.array(sums, "<u4").tobytes())):
            file.seek(h5[name].id.get_offset())
            file.write(content)
    (problem,) = found(store, f"features/spots/{KEY}/a1.h5")
    assert (problem.where, problem.what) == ("block 1, rows 260, 262", "NaN or infinity")


def test_negative_and_infinite_counts_are_named_by_row(store):
    path, patches = expression_path(store.path, "a2"), store.patches("a2")
    old = read_expression(path)
    dense = old.counts.toarray()
    dense[3, 0], dense[7, 1] = -1, np.inf
    rewrite(path, write_expression, Expression(csr_matrix(dense), old.genes, old.barcode), patches, slide_id="a2")
    forget_catalog(store)
    (problem,) = found(store, "expression/a2.h5ad")
    assert (problem.dataset, problem.where) == ("X/data", "rows 3, 7")
    assert problem.what == "NaN, infinity or a count below zero"


def test_counts_in_another_order_than_the_spots(store):
    path, patches = expression_path(store.path, "a2"), store.patches("a2")
    old, order = read_expression(path), np.r_[1, 0, 2:30]
    turned = Patches(patches.center_px[order], patches.barcode[order], patches.array[order])
    rewrite(path, write_expression, Expression(old.counts[order], old.genes, turned.barcode), turned, slide_id="a2")
    forget_catalog(store)
    rows, centres = found(store, "expression/a2.h5ad")
    assert (rows.dataset, rows.where) == ("obs", "rows 0, 1")
    assert f"the spots in another order: row 0 is {patches.barcode[1]}, wanted {patches.barcode[0]}" in rows.what
    assert (centres.dataset, centres.what) == ("obsm/spatial", "is not the centres of patches/spots")


def test_fewer_counts_than_spots(store):
    path, patches = expression_path(store.path, "a2"), store.patches("a2")
    old = read_expression(path)
    part = Patches(patches.center_px[:29], patches.barcode[:29], patches.array[:29])
    rewrite(path, write_expression, Expression(old.counts[:29], old.genes, part.barcode), part, slide_id="a2")
    forget_catalog(store)
    assert [p.what for p in found(store, "expression/a2.h5ad")] == ["has 29 rows for 30 spots"]


def test_features_of_other_patches_image_scale_and_length(store):
    path = features_path(store.path, "a2", key=KEY)
    header = replace(read_features(path).header, patches_digest="0" * 64, source_digest="another", slide_mpp=0.25)
    path.unlink()
    with write_features(path, header, shape=(29, 4)) as writer:
        writer.append(np.ones((29, 4), np.float32))
    forget_catalog(store)
    said = [problem.what for problem in found(store, f"features/spots/{KEY}/a2.h5")]
    assert any(what.startswith("were made from another image: source_digest another is not the") for what in said)
    assert "were made at another scale: slide_mpp 0.25 is not the slide's mpp, 0.5" in said
    assert any("belong to other patches: patches_digest 000000000000 is not" in what for what in said)
    assert "has 29 rows for 30 patches" in said
    assert len(said) == 4


def test_two_encoders_under_one_key(store):
    path = features_path(store.path, "b1", key=KEY)
    opened = read_features(path)
    header, values = replace(opened.header, fingerprint="another"), np.array(opened.features, np.float32)
    path.unlink()
    with write_features(path, header, shape=values.shape) as writer:
        writer.append(values)
    forget_catalog(store)
    (problem,) = found(store, f"features/spots/{KEY}")
    assert problem.what == (
        "features of different encoders lie under one key: print of toy of 2 slides such as a1, "
        "another of 1 slides such as b1"
    )
    assert "--as" in problem.mend


def test_renamed_files_and_files_without_company(store):
    for path in (slide_path(store.path, "b1"), patches_path(store.path, "b1")):
        path.rename(path.with_name("b2.h5"))
    said = {(problem.path, problem.what) for problem in verify_store(store.path)}
    assert ("slides/b2.h5", "says that it is of slide b1: it was renamed or copied") in said
    assert ("patches/spots/b2.h5", "says that it is of slide b1: it was renamed or copied") in said
    lost = f"features/spots/{KEY}/b1.h5"
    assert (lost, "is of no use without slides/b1.h5, which is missing") in said
    assert (lost, "is of no use without patches/spots/b1.h5, which is missing") in said
    assert ("expression/b1.h5ad", "is of no use without patches/spots/b1.h5, which is missing") in said


def test_parents_must_be_rows_of_a_grid_that_is_there(store):
    path = patches_path(store.path, "a1", patches="grid-200um")
    fine = read_patches(path)
    rewrite(path, write_patches, replace(fine, parent=np.array([0, 2, -2, -1])), slide_id="a1")
    (problem,) = found(store, "patches/grid-200um/a1.h5")
    assert (problem.dataset, problem.where) == ("parent", "rows 1, 2")
    assert problem.what == "parent 2 is no row of grid-400um, which has 2"
    rewrite(path, write_patches, replace(fine, parent_set="grid-800um"), slide_id="a1")
    forget_catalog(store)
    (problem,) = found(store, "patches/grid-200um/a1.h5")
    assert problem.what == "names rows of the grid grid-800um, of which this slide has no patches"


def test_centres_that_are_no_numbers(store):
    path = patches_path(store.path, "a1", patches="grid-400um")
    old = read_patches(path)
    rewrite(path, write_patches, replace(old, center_px=np.array([[np.nan, 1], [2, 3]])), slide_id="a1")
    (problem,) = found(store, "patches/grid-400um/a1.h5")
    assert (problem.dataset, problem.where, problem.what) == ("center", "row 0", "NaN or infinity")


def test_structural_damage_foreign_and_newer_files_are_named(store):
    damaged = features_path(store.path, "a2", key="haematoxylin@20x")
    content = bytearray(damaged.read_bytes())
    content[12] ^= 1  # in the superblock, which carries its own checksum
    damaged.write_bytes(content)
    newer = patches_path(store.path, "a1", patches="grid-400um")
    with h5py.File(newer, "a") as file:
        file.attrs["encoding-version"] = "2"
    foreign = features_path(store.path, "a1", key="uni@20x")
    foreign.parent.mkdir(parents=True)
    with h5py.File(foreign, "w") as file:
        file["feats"] = np.zeros((3, 2), np.float16)
    said = {problem.path: problem.what for problem in verify_store(store.path)}
    assert said["features/spots/haematoxylin@20x/a2.h5"].startswith("is not a whole HDF5 file")
    assert "tissuary-patches version 2; wanted tissuary-patches version 1" in said["patches/grid-400um/a1.h5"]
    assert "It looks like a file of STAMP" in said["features/spots/uni@20x/a1.h5"]
    assert len(said) == 3


def test_files_without_a_place_and_unfinished_files(store):
    (store.path / "notes.txt").write_text("mine")
    odd = store.path / "features" / "spots" / "no key at all" / "a1.h5"
    odd.parent.mkdir()
    shutil.copy(features_path(store.path, "a1", key=KEY), odd)
    (store.path / "features" / "spots" / KEY / ".a9.h5.journal").write_text("{}")
    (store.path / "qc").mkdir()
    (store.path / "qc" / "a1.jpg").write_bytes(b"\xff\xd8 cut short")
    found = examine_store(store.path)
    said = {problem.path: problem.what for problem in found.problems}
    assert said.keys() == {"qc/a1.jpg", "features/spots/no key at all/a1.h5"}
    assert "does not read as <backbone>" in said["features/spots/no key at all/a1.h5"]
    assert said["qc/a1.jpg"] == "is no whole JPEG picture"
    assert found.notes == (
        "no file of a store: notes.txt; move what is yours elsewhere, or delete it",
        f"unfinished: features/spots/{KEY}/.a9.h5.journal; `tissuary featurize` goes on from them or removes them",
    )


def test_older_files_without_checksums_are_noted_and_not_blamed(store):
    for path in (patches_path(store.path, "a2"), patches_path(store.path, "b1"), expression_path(store.path, "a1")):
        with h5py.File(path, "a") as file:
            file.attrs.pop("attributes_crc32", None)
            file.visititems(lambda _, item: item.attrs.pop("crc32", None) and None)
    forget_catalog(store)
    found = examine_store(store.path)
    assert found.problems == ()
    older = (
        "carry no checksums, as those of an older version or another tool: they were read, but nothing says what their "
        "bytes should be"
    )
    assert found.notes == (
        f"1 file of expression {older}",
        f"2 files of patches {older}",
    )
    with h5py.File(patches_path(store.path, "a2"), "a") as file:
        file["center"][0, 0] += 1
    (problem,) = verify_store(store.path)
    assert "centres and barcodes do not match their digest" in problem.what


def test_slides_imported_without_their_image_are_not_called_older(store):
    """Such a file holds attributes alone, which are sealed: nothing of it is uncovered."""
    path = slide_path(store.path, "a1")
    record = read_slide(path)
    path.unlink()
    write_slide(path, record, thumbnail=None)
    found = examine_store(store.path)
    assert found.problems == ()
    (note,) = found.notes
    assert note.startswith("1 slide without a thumbnail, as an import without the image leaves them: a1. Nothing is")
    with h5py.File(path, "a") as file:
        file.attrs["width"] = 7
    assert [problem.where for problem in verify_store(store.path)] == ["attributes"]
    with h5py.File(path, "a") as file:
        file.attrs["width"] = record.width_px
        del file.attrs["attributes_crc32"]
    assert "1 file of slide carry no checksums" in examine_store(store.path).notes[0]


def test_one_checksum_that_is_gone_is_damage(store):
    with h5py.File(patches_path(store.path, "a2"), "a") as file:
        del file["array"].attrs["crc32"]
    forget_catalog(store)
    (problem,) = found(store, "patches/spots/a2.h5")
    assert (problem.dataset, problem.what) == ("array", "has no checksum, as the other datasets of the file have")


def test_a_catalogue_that_disagrees_with_the_files(store):
    import polars

    saved = read_columns(store.path)
    columns = next(folder.columns for folder in saved.folders if folder.path == f"features/spots/{KEY}")
    columns["rows"][1], columns["fingerprint"][2] = 31, "another"
    write_columns(store.path, saved)
    frame = polars.read_parquet(store.path / "catalog.parquet")
    frame.with_columns(size=polars.col("size") + (polars.col("path") == "slides/a1.h5")).write_parquet(
        store.path / "catalog.parquet"
    )
    features_path(store.path, "b1", key="haematoxylin@20x").unlink()
    said = {(problem.path, problem.where): problem.what for problem in verify_store(store.path)}
    gone = "features/spots/haematoxylin@20x/b1.h5"
    size = slide_path(store.path, "a1").stat().st_size
    assert said == {
        ("catalog.json", f"row of features/spots/{KEY}/a2.h5"): "says rows 31, the file has 30",
        ("catalog.json", f"row of features/spots/{KEY}/b1.h5"): (
            f"says fingerprint 'another', the file has 'print of {KEY}'"
        ),
        ("catalog.json", f"row of {gone}"): f"speaks of {gone}, which is not there",
        ("catalog.parquet", f"row of {gone}"): f"speaks of {gone}, which is not there",
        ("catalog.parquet", "row of slides/a1.h5"): f"says size {size + 1}, the file has {size}",
    }
    forget_catalog(store)
    assert Store(store.path).entries
    assert verify_store(store.path) == ()


def test_counts_that_changed_behind_their_checksums_are_found_by_the_catalogue(store):
    path = expression_path(store.path, "b1")
    with h5py.File(path, "a") as file:
        file.attrs["remark"] = "attributes of AnnData files have no checksum of their own"
    problems = verify_store(store.path)
    assert {problem.path for problem in problems} == {"catalog.json", "catalog.parquet"}
    assert all("row of expression/b1.h5ad" in problem.where and "sha256" in problem.what for problem in problems)


def test_an_index_made_from_features_since_replaced(store):
    store.build_index(KEY)
    for slide in ("a1", "a2", "b1"):
        path = features_path(store.path, slide, key=KEY)
        opened = read_features(path)
        header, values = replace(opened.header, fingerprint="newer encoder"), np.array(opened.features, np.float32)
        rewrite(path, put_features, header, values)
    forget_catalog(store)
    (problem, *rest) = found(store, f"indexes/spots.{KEY}/index.json")
    assert rest == []
    assert (problem.where, problem.mend) == ("fingerprint", "run `tissuary index` again")
    assert problem.what == f"was made from other features of {KEY} (print of toy) than those of the store"


def test_an_index_of_features_that_were_computed_again_with_other_results(store):
    """The encoder is the same, the numbers are not: another device, or another plan."""
    store.build_index(KEY)
    path = features_path(store.path, "a2", key=KEY)
    opened = read_features(path)
    rewrite(path, put_features, opened.header, np.array(opened.features, np.float32) * 1.25)
    forget_catalog(store)
    (problem,) = found(store, f"indexes/spots.{KEY}/index.json")
    assert (problem.where, problem.what) == ("slide a2", "features of slide a2 changed since the index was made")


def test_an_index_over_patches_since_replaced(store):
    store.build_index(KEY)
    old = store.patches("b1")
    moved = replace(old, center_px=old.center_px + 1)
    rewrite(patches_path(store.path, "b1"), write_patches, moved, slide_id="b1")
    said = {(problem.path, problem.where): problem.what for problem in verify_store(store.path)}
    assert said[f"indexes/spots.{KEY}/index.json", "slide b1"] == "patches of slide b1 changed since the index was made"
    assert said["expression/b1.h5ad", ""] == "is not the centres of patches/spots"


def put_features(path, header, values):
    with write_features(path, header, shape=values.shape) as writer:
        writer.append(values)


def test_indexes_that_are_damaged_or_older_than_the_store(store):
    store.build_index(KEY)
    folder = store.path / "indexes" / f"spots.{KEY}"
    data = next(folder.glob("vectors-*"))
    with changed(data) as content:
        content[len(content) // 2] ^= 4
        data.write_bytes(content)
        (problem,) = found(store, data.relative_to(store.path).as_posix())
        assert problem.what == "does not match its sha256 in index.json"
    (folder / "spare.bin").write_bytes(b"")
    seen = examine_store(store.path)
    assert (seen.problems, seen.notes) == (
        (),
        (
            f"indexes/spots.{KEY}/spare.bin is not named by index.json: left behind by a killed `tissuary index`; "
            "delete it",
        ),
    )
    (folder / "spare.bin").unlink()
    meta = folder / "index.json"
    for content in (meta.read_bytes()[:-9], meta.read_bytes().replace(b"a1", b"a9", 1)):
        with changed(meta):
            meta.write_bytes(content)
            (problem,) = found(store, f"indexes/spots.{KEY}/index.json")
            assert "run `tissuary index` again" in problem.mend
    path = slide_path(store.path, "b1")
    rewrite(path, write_slide, replace(read_slide(path), patient_id="C"), thumbnail=np.zeros((4, 4, 3), np.uint8))
    forget_catalog(store)
    (problem,) = found(store, f"indexes/spots.{KEY}/index.json")
    assert problem.what == "patient of slide b1 changed since the index was made"


def test_an_index_older_than_the_store_is_a_note(store):
    store.build_index(KEY)
    features_path(store.path, "b1", key=KEY).unlink()
    forget_catalog(store)
    seen = examine_store(store.path)
    assert seen.problems == ()
    assert seen.notes == (
        f"indexes/spots.{KEY} is older than the store: 0 slides came and 1 went since; run `tissuary index` again",
    )


def layouts(tmp_path):
    """Files as other tools write them, as far as they tell them apart."""

    def trident(file):
        file["features"] = np.zeros((2, 4), np.float32)
        file["coords"] = np.zeros((2, 2), np.int64)
        file["coords"].attrs.update({"patch_size_level0": 512, "level0_magnification": 40})

    def clam(file):
        file["features"] = np.zeros((2, 4), np.float32)
        file["coords"] = np.zeros((2, 2), np.int32)

    def stamp(file):
        file["feats"], file["coords"] = np.zeros((2, 4), np.float16), np.zeros((2, 2), np.float32)
        file.attrs.update({"stamp_version": "2.1", "extractor": "uni", "unit": "um"})

    def hest(file):
        file["embeddings"], file["coords"] = np.zeros((2, 4), np.float32), np.zeros((2, 2), np.int64)
        file["barcodes"] = np.array([[b"1x1"], [b"1x2"]])

    def triplex(file):
        file["embeddings"], file["mask_tb"] = np.zeros((2, 25, 4), np.float32), np.zeros((2, 25), bool)

    for make in (trident, clam, stamp, hest, triplex):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        yield make.__name__, path


def test_files_of_other_tools_say_how_they_are_imported(tmp_path):
    for tool, path in layouts(tmp_path):
        wanted = rf"looks like a file of {tool.upper()}.*`tissuary import PATH --format {tool} --store STORE`"
        for read in (read_features, read_patches, read_slide, read_expression):
            with pytest.raises(StoreError, match=wanted):
                read(path)


def test_readers_refuse_each_other_s_files_and_newer_ones(store, tmp_path):
    with pytest.raises(
        StoreError, match=r"tissuary-patches version 1; wanted tissuary-features version 1. It lies in a"
    ):
        read_features(patches_path(store.path, "a1"))
    with pytest.raises(StoreError, match=r"says that it is tissuary-slide version 1; wanted anndata version 0.1.0"):
        read_expression(slide_path(store.path, "a1"))
    with pytest.raises(
        StoreError, match=r"anndata version 0.1.0; wanted tissuary-patches .* written by something else"
    ):
        read_patches(expression_path(store.path, "a1"))
    path = tmp_path / "newer.h5ad"
    shutil.copy(expression_path(store.path, "a1"), path)
    with h5py.File(path, "a") as file:
        file.attrs["encoding-version"] = "0.2.0"
    with pytest.raises(StoreError, match="A newer version needs a newer tissuary: `pip install --upgrade tissuary`"):
        read_expression(path)


@pytest.mark.parametrize("name", ["X/indices", "X/indptr"])
def test_counts_whose_indices_lead_nowhere_are_refused(store, name):
    path = expression_path(store.path, "a2")
    with h5py.File(path, "a") as file:
        file[name][3] = 1_000_000
    with pytest.raises(StoreError, match="does not hold what its format says"):
        read_expression(path)


@pytest.fixture
def run(monkeypatch, capsys):
    def go(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return go


def test_the_command_ends_with_0_1_or_2(run, store, tmp_path):
    code, out, _ = run("verify", store.path)
    assert (code, out.split(":")[0]) == (0, "all whole")
    code, out, _ = run("verify", store.path, "--json")
    assert (code, json.loads(out)["whole"], json.loads(out)["files"]) == (0, True, 17)

    path = slide_path(store.path, "a1")
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = run("verify", store.path)
    assert code == 1
    assert "PROBLEM slides/a1.h5: is not a whole HDF5 file" in out
    assert "To fix it: delete it and run `tissuary featurize` again" in out
    code, out, _ = run("verify", store.path, "--json")
    assert code == 1
    assert json.loads(out)["problems"][0].keys() == {"path", "dataset", "where", "what", "mend"}

    code, out, err = run("verify", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "is no store" in err
