"""Resizable datasets of other writers: mapped as one array where their chunks allow it, refused where not."""

import h5py
import numpy as np
import pytest

from tissuary.store.errors import DamagedFileError, StoreError
from tissuary.store.files.features import FeatureHeader, read_features, write_features
from tissuary.store.files.schema import ALIGNMENT_BYTES

HEADER = FeatureHeader("C2", "print", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")


def write_chunked(path, values, *, chunks, order=None, **options):
    """A feature file whose rows are in a resizable dataset; chunks are written, so laid out, in `order`."""
    plain = path.with_name("plain.h5")
    with write_features(plain, HEADER, shape=values.shape) as writer:
        writer.append(values)
    with (
        h5py.File(plain, "r") as source,
        h5py.File(path, "w", alignment_threshold=ALIGNMENT_BYTES, alignment_interval=ALIGNMENT_BYTES) as file,
    ):
        file.attrs.update(source.attrs)
        maxshape = (None, *values.shape[1:])
        rows = file.create_dataset("features", values.shape, "<f2", chunks=chunks, maxshape=maxshape, **options)
        step = chunks[0]
        for i in range(-(-len(values) // step)) if order is None else order:
            rows[i * step : (i + 1) * step] = values[i * step : (i + 1) * step]
    plain.unlink()
    return path


@pytest.mark.parametrize("shape", [(100, 64), (96, 64), (70, 4, 16), (5, 64)])
def test_chunks_in_any_order_are_one_array(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    chunks = (32, *shape[1:])  # 32 rows of 128 bytes: one page
    order = np.random.default_rng(1).permutation(-(-shape[0] // 32))
    path = write_chunked(tmp_path / "f.h5", values, chunks=chunks, order=order)
    features = read_features(path).features
    np.testing.assert_array_equal(features, values.astype(np.float16))
    assert not features.flags.writeable


def test_chunks_that_cannot_be_mapped_are_refused(tmp_path):
    values = np.ones((64, 64), np.float32)
    for chunks, options in (((32, 32), {}), ((31, 64), {}), ((32, 64), {"compression": "gzip"})):
        path = write_chunked(tmp_path / "f.h5", values, chunks=chunks, **options)
        with pytest.raises(StoreError, match=r"only chunks of whole rows without filter, of a multiple of \d+ bytes"):
            read_features(path)


def test_missing_chunks_and_truncation_are_damage(tmp_path):
    values = np.ones((96, 64), np.float32)
    path = write_chunked(tmp_path / "f.h5", values, chunks=(32, 64), order=[0, 2])
    with pytest.raises(DamagedFileError, match="2 of 3 chunks of 'features' are there"):
        read_features(path)
    path = write_chunked(tmp_path / "g.h5", values, chunks=(32, 64))
    data = path.read_bytes()
    for keep in (len(data) - 1, len(data) // 2, 3000):
        path.write_bytes(data[:keep])
        with pytest.raises(DamagedFileError, match=r"not a whole HDF5 file|cannot be mapped|does not hold"):
            read_features(path)


def test_a_table_gathers_from_them(tmp_path):
    from tissuary.store.files.column import FeatureColumn

    values = np.random.default_rng(3).normal(size=(100, 64)).astype(np.float32)
    part = read_features(write_chunked(tmp_path / "f.h5", values, chunks=(32, 64))).features
    column = FeatureColumn("toy@20x", "print", (part,))
    rows = np.array([99, 0, 31, 32, 99])
    np.testing.assert_array_equal(column.gather(np.zeros(5, int), rows), values.astype(np.float16)[rows])
