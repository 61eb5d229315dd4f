"""docs/format.md is enough to read a store: a reader of h5py, zlib and hashlib alone, written from the page."""

import hashlib
import json
import re
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from tissuary.benchmarks.flips import add_other_layouts
from tissuary.store import Store
from tissuary.store.catalog_file import Entry
from tissuary.store.files import schema
from tissuary.store.files.features import read_features
from tissuary.store.files.schema import features_path
from tissuary.store.search.record import IndexRecord, IvfRecord

PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
KEY = "toy@20x"


@pytest.fixture
def root(make_store):
    store = make_store({"a1": ("A", 300), "b1": ("B", 28)}, n_genes=12)
    add_other_layouts(store.path, "b1", like=KEY)
    store = Store(store.path)
    store.build_index(KEY)
    assert store.entries
    return store.path


def crc_of(dataset):
    values = dataset[()]
    if h5py.check_string_dtype(dataset.dtype):
        texts = [values] if dataset.shape == () else values.ravel()
        return zlib.crc32(b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    return zlib.crc32(np.asarray(values).astype(dataset.dtype.newbyteorder("<")).tobytes())


def datasets(file):
    found = []
    file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def says(file):
    return f"{file.attrs['encoding-type']} {file.attrs['encoding-version']}"


def test_every_file_says_what_the_page_says(root):
    for folder, wanted in re.findall(r"^  (slides|patches|features|expression)/\S+\s+(\S+ [\d.]+)", PAGE, re.M):
        paths = list((root / folder).rglob("*.h5*"))
        assert paths
        for path in paths:
            with h5py.File(path) as file:
                assert says(file) == wanted, path
    for encoding in (schema.SLIDE, schema.PATCHES, schema.FEATURES, schema.EXPRESSION, schema.INDEX, schema.CATALOG):
        assert f"{encoding.type} {encoding.version}" in PAGE


def test_datasets_and_attributes_match_the_checksums_of_the_page(root):
    checked = 0
    for path in [*root.glob("slides/*"), *root.glob("patches/*/*"), *root.glob("expression/*")]:
        with h5py.File(path) as file:
            for dataset in datasets(file):
                assert crc_of(dataset) == dataset.attrs["crc32"], (path, dataset.name)
                checked += 1
    assert checked > 20
    for path in [*root.glob("slides/*"), *root.glob("patches/*/*"), *root.glob("features/*/*/*")]:
        with h5py.File(path) as file:
            attributes = {name: value for name, value in file.attrs.items() if name != "attributes_crc32"}
            plain = {name: value.item() if hasattr(value, "item") else value for name, value in attributes.items()}
            text = "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(plain[name])}" for name in sorted(plain)) + "}"
            assert zlib.crc32(text.encode("ascii")) == file.attrs["attributes_crc32"], path


def test_rows_of_every_layout_are_where_the_page_says(root):
    layouts = set()
    for path in root.glob("features/*/*/*.h5"):
        raw = path.read_bytes()
        with h5py.File(path) as file:
            features, step = file["features"], int(file.attrs["block_rows"])
            n, row_bytes = len(features), features[:1].nbytes
            if features.chunks is None:
                start = features.id.get_offset()
                assert start % 4096 == 0 or n * row_bytes < 4096
                rows = raw[start : start + n * row_bytes]
            else:
                pieces = {}
                for i in range(features.id.get_num_chunks()):
                    chunk = features.id.get_chunk_info(i)
                    assert chunk.byte_offset % 4096 == chunk.size % 4096 == 0
                    pieces[chunk.chunk_offset[0]] = raw[chunk.byte_offset : chunk.byte_offset + chunk.size]
                rows = b"".join(pieces[at] for at in sorted(pieces))[: n * row_bytes]
            sums = [zlib.crc32(rows[at * row_bytes : (at + step) * row_bytes]) for at in range(0, n, step)]
            assert sums == file["crc32"][()].tolist()
            layouts.add((features.dtype.str, features.chunks is None, len(sums) > 1))
        assert np.asarray(read_features(path).features).tobytes() == rows
    assert layouts == {("<f2", True, True), ("<f2", True, False), ("<f4", True, True), ("<f2", False, True)}


def test_digests_tie_features_and_counts_to_their_patches(root):
    for path in root.glob("patches/spots/*.h5"):
        with h5py.File(path) as file, h5py.File(root / "expression" / f"{path.stem}.h5ad") as counts:
            barcodes = file["barcode"][()].tolist()
            digest = hashlib.sha256(file["center"][()].astype("<f8").tobytes() + b"\n".join(barcodes)).hexdigest()
            assert digest == file.attrs["digest"]
            assert counts["obs"][counts["obs"].attrs["_index"]][()].tolist() == barcodes
            np.testing.assert_array_equal(counts["obsm/spatial"][()], file["center"][()])
        with h5py.File(features_path(root, path.stem, key=KEY)) as features:
            assert features.attrs["patches_digest"] == digest


def test_an_index_is_what_the_page_says(root):
    folder = root / "indexes" / f"spots.{KEY}"
    raw = (folder / "index.json").read_bytes()
    meta = json.loads(raw)
    assert f"{meta['encoding-type']} {meta['encoding-version']}" in PAGE
    assert hashlib.sha256(raw.replace(meta["digest"].encode(), b"0" * 64)).hexdigest() == meta["digest"]
    for name, digest in meta["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    rows, vectors = np.load(folder / meta["files"]["rows"]), np.load(folder / meta["files"]["vectors"])
    at = 311  # row 11 of b1
    assert (meta["record"]["slide_ids"][rows["slide"][at]], rows["row"][at]) == ("b1", 11)
    with h5py.File(features_path(root, "b1", key=KEY)) as file:
        vector = (file["features"][11].astype(np.float32) - rows["shift"][1]) * rows["scale"][1]
        assert meta["record"]["features_digests"][1] == hashlib.sha256(file["crc32"][()].tobytes()).hexdigest()
    np.testing.assert_allclose(vectors[at], vector / np.linalg.norm(vector), atol=1e-6)


def test_the_catalogue_is_what_the_page_says(root):
    raw = (root / "catalog.json").read_bytes()
    saved = json.loads(raw)
    own, zeros = (f'"crc32": "{value}"'.encode() for value in (saved["crc32"], "0" * 8))
    assert f"{zlib.crc32(raw.replace(own, zeros)):08x}" == saved["crc32"]
    parquet = (root / "catalog.parquet").stat()
    assert saved["parquet"] == [parquet.st_size, parquet.st_mtime_ns]
    for folder, rows in saved["folders"].items():
        names = [f"{slide}{rows['suffix']}" for slide in rows["columns"]["slide_id"]]
        assert names == sorted(path.name for path in (root / folder).iterdir())


@pytest.mark.parametrize(
    "names",
    [
        Entry._fields,
        tuple(IndexRecord.__dataclass_fields__),
        tuple(IvfRecord.__dataclass_fields__),
    ],
    ids=["catalogue", "index", "lists"],
)
def test_the_page_names_every_field(names):
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_the_page_names_every_attribute_and_dataset(root):
    said = set()
    for path in [*root.glob("slides/*"), *root.glob("patches/*/*"), *root.glob("features/*/*/*")]:
        with h5py.File(path) as file:
            said |= set(file) | set(file.attrs)
    assert sorted(name for name in said if f"`{name}`" not in PAGE) == []
