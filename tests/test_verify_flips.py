"""Verify against single bytes: every flip inside a dataset is found and named, every cut file is refused."""

import h5py
import numpy as np
import pytest

from tissuary.benchmarks.flips import add_other_layouts, cut_one, flip_one, flip_outside
from tissuary.benchmarks.h5_bytes import rotten, spans_of
from tissuary.store import Store
from tissuary.store.files.checksums import content_crc32
from tissuary.store.files.features import FeatureHeader, read_features, write_features
from tissuary.store.files.patches import Patches, write_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path, slide_path
from tissuary.store.verify.verify import verify_store

KEY = "toy@20x"


@pytest.fixture
def store(make_store):
    """Two slides with counts; 300 rows are two blocks of features, and rows in float32 and in chunks are more."""
    store = make_store({"a1": ("A", 300), "b1": ("B", 28)}, dim=4, n_genes=20)
    add_other_layouts(store.path, "b1", like=KEY)
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
    store = Store(store.path)
    assert store.entries
    return store


def found(store, path):
    """The problems of one file, relative to the store; every other file must be whole."""
    problems = verify_store(store.path)
    assert {problem.path for problem in problems} == {path}, problems
    return problems


def test_one_flipped_byte_in_any_dataset_of_any_file_is_found_and_named(store):
    rng = np.random.default_rng(0)
    paths = [
        slide_path(store.path, "b1"),
        patches_path(store.path, "a1", patches="grid-200um"),
        features_path(store.path, "a1", key=KEY),
        features_path(store.path, "b1", key="chunked@20x"),
        expression_path(store.path, "b1"),
    ]
    seen = set()
    for path in paths:
        for name, span in {span.dataset: span for span in spans_of(path) if span.size}.items():
            with rotten(path, span.offset + int(rng.integers(span.size)), flip=1 << int(rng.integers(8))):
                problems = verify_store(store.path)
            relative = path.relative_to(store.path).as_posix()
            wanted = "features" if name == "crc32" else name  # which of both changed cannot be told
            assert {p.path for p in problems} == {relative}, (relative, name)
            assert wanted in {p.dataset for p in problems}, (relative, name)
            seen.add(name)
    assert {"thumbnail", "center", "barcode", "array", "parent", "features", "crc32"} < seen
    assert {"X/data", "X/indices", "X/indptr", "obs/barcode", "var/gene", "obsm/spatial", "uns/slide_id"} < seen
    assert verify_store(store.path) == ()


def test_random_flips_and_cuts_anywhere(store):
    rng = np.random.default_rng(1)
    store.build_index(KEY)
    assert [missed for missed in (flip_one(store.path, rng) for _ in range(8)) if missed] == []
    assert {flip_outside(store.path, rng) for _ in range(6)} <= {"found", "no effect"}
    assert [opened for opened in (cut_one(store.path, rng) for _ in range(24)) if opened] == []
    assert verify_store(store.path) == ()


def test_a_flip_names_the_block_and_its_rows(store):
    path = features_path(store.path, "a1", key=KEY)
    offset = read_features(path).features.offset
    with path.open("r+b") as file:
        file.seek(offset + 270 * 4 * 2)  # row 270 of 4 halves
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    (problem,) = found(store, f"features/spots/{KEY}/a1.h5")
    assert (problem.dataset, problem.where) == ("features", "block 1 (rows 256 to 299)")
    assert "do not match their checksum, crc32[1]" in problem.what
    assert "delete it and run `tissuary featurize` again" in problem.mend


@pytest.mark.parametrize("key", ["wide@20x", "chunked@20x"])
def test_a_flip_in_rows_of_single_precision_or_in_chunks_names_the_block(store, key):
    path = features_path(store.path, "b1", key=key)
    assert (read_features(path).features.dtype == np.float32) == (key == "wide@20x")
    with h5py.File(path) as file:
        assert (file["features"].chunks is not None) == (key == "chunked@20x")
        row_bytes = file["features"][:1].nbytes
    at = 17 * row_bytes + 5  # row 17 of 64 numbers, in blocks of eight rows
    span = next(s for s in spans_of(path) if s.dataset == "features" and s.start <= at < s.start + s.size)
    with rotten(path, span.offset + at - span.start, flip=1):
        (problem,) = found(store, f"features/spots/{key}/b1.h5")
    assert (problem.dataset, problem.where) == ("features", "block 2 (rows 16 to 23)")


def test_sizes_of_blocks_that_nobody_can_use_are_named(store):
    path = features_path(store.path, "b1", key=KEY)
    for rows in (0, -3):
        with h5py.File(path, "a") as file:
            file.attrs["block_rows"] = rows
        problems = found_but_catalog(store, f"features/spots/{KEY}/b1.h5")
        assert {problem.where for problem in problems} == {"attributes", ""}
        assert any(p.dataset == "crc32" and f"wanted one uint32 per {rows} rows" in p.what for p in problems)


def test_data_in_another_file_is_named(store, tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["thumbnail"] = np.zeros((2, 2, 3), np.uint8)
    with h5py.File(slide_path(store.path, "b1"), "a") as file:
        del file["thumbnail"]
        file["thumbnail"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "thumbnail")
        file["mine"] = h5py.SoftLink("/tissue")
    said = {problem.dataset: problem.what for problem in found_but_catalog(store, "slides/b1.h5")}
    assert said["thumbnail"].startswith(f"keeps its data in {tmp_path / 'elsewhere.h5'}; a store keeps all of it")
    assert said["mine"].startswith("keeps its data in /tissue")


def test_counts_whose_bytes_changed_under_the_same_size_and_time_are_blamed_themselves(store):
    path = expression_path(store.path, "b1")
    with rotten(path, path.read_bytes().index(b"column-order"), flip=1):  # an attribute that nobody here reads
        (problem,) = found(store, "expression/b1.h5ad")
    assert "when it was catalogued with the same size and time" in problem.what
    assert problem.mend.startswith("delete it and run `tissuary featurize` again")
    assert verify_store(store.path) == ()


def test_a_name_that_is_no_text_any_more_is_damage_and_ends_nothing(store):
    """h5py's visitors answer such a name with a SystemError."""
    path = expression_path(store.path, "b1")
    place = path.read_bytes().index(b"indptr")
    with rotten(path, place + 2, flip=0xFF):
        (problem,) = found(store, "expression/b1.h5ad")
    assert problem.what == r"the name b'in\x9bptr' in /X/ is no text"


def found_but_catalog(store, path):
    """The problems of a file that was written again, so that the catalogue is older."""
    problems = [one for one in verify_store(store.path) if not one.path.startswith("catalog.")]
    assert {problem.path for problem in problems} == {path}, problems
    return problems


def test_a_flip_among_attributes_is_found(store):
    path = slide_path(store.path, "b1")
    content = path.read_bytes()
    assert content.count(b"made up") == 1
    path.write_bytes(content.replace(b"made up", b"made uq"))
    (problem,) = found(store, "slides/b1.h5")
    assert (problem.where, problem.what[:28]) == ("attributes", "do not match their checksum:")


def test_checksums_depend_on_contents_and_on_nothing_else():
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    assert content_crc32(values) == content_crc32(values.astype(">f4")) == content_crc32(np.asfortranarray(values))
    assert content_crc32(values[1:], start=content_crc32(values[:1])) == content_crc32(values)
    texts = np.array(["ab", "c"], dtype=object)
    assert content_crc32(texts) == content_crc32(np.array([b"ab", b"c"], dtype=object))
    assert content_crc32(texts) != content_crc32(np.array(["a", "bc"], dtype=object))


def test_an_empty_slide_and_single_precision_are_verified(store):
    place = Patches(np.empty((0, 2)), np.array([], dtype=np.str_))
    write_patches(patches_path(store.path, "a1", patches="grid-1um"), place, slide_id="a1")
    for key, n in (("none@20x", 0), ("huge@20x", 300)):
        digest = place.digest if n == 0 else store.patches("a1").digest
        header = FeatureHeader("a1", "f" * 64, {"key": "toy"}, 0.5, 112.0, 1.0, "fp32", digest, 0.5, "none")
        path = features_path(store.path, "a1", key=key, patches="grid-1um" if n == 0 else "spots")
        with write_features(path, header, shape=(n, 3)) as writer:
            writer.append(np.full((n, 3), 70_000.0, np.float32))  # past fp16's 65,504
    assert read_features(features_path(store.path, "a1", key="huge@20x")).features.dtype == np.float32
    assert verify_store(store.path) == ()
    with features_path(store.path, "a1", key="huge@20x").open("r+b") as file:
        file.seek(read_features(features_path(store.path, "a1", key="huge@20x")).features.offset + 300 * 12 - 1)
        file.write(b"\xff")
    assert found(store, "features/spots/huge@20x/a1.h5")[0].where == "block 1 (rows 256 to 299)"
