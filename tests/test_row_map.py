"""Rows of many files as one array: the same rows as concatenating them, and pages that are given back."""

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store import memory_limit, row_map
from tissuary.store.feature_column import FeatureColumn, standardise
from tissuary.store.feature_file import FeatureHeader, read_features, write_features
from tissuary.store.row_map import RowMap

PAGE = mmap.ALLOCATIONGRANULARITY


def mapped(path, rows, *, offset=PAGE):
    """An array on disk behind `offset` bytes of something else, as `numpy.memmap`."""
    path.write_bytes(b"\xff" * offset + rows.tobytes())
    return np.memmap(path, dtype=rows.dtype, mode="r", offset=offset, shape=rows.shape)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    shape=st.sampled_from([(1,), (7,), (392,), (3, 5), (49, 16)]),
    dtype=st.sampled_from(["<f2", "<f4"]),
    seed=st.integers(0, 99),
)
def test_rows_are_those_of_the_parts_one_after_another(tmp_path_factory, lengths, shape, dtype, seed):
    folder, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(seed)
    arrays = [rng.normal(size=(n, *shape)).astype(dtype) for n in lengths]
    parts = [mapped(folder / str(i), rows) for i, rows in enumerate(arrays)]
    assert RowMap.serves(parts)
    whole = RowMap(parts)
    slide = rng.integers(0, len(parts), 100)
    row = np.array([rng.integers(0, lengths[one]) for one in slide])
    out = np.empty((100, *shape), dtype)
    whole.take(whole.first[slide] + row, out)
    starts = np.cumsum([0, *lengths])[:-1]
    np.testing.assert_array_equal(out, np.concatenate(arrays)[starts[slide] + row])


def test_parts_that_cannot_lie_side_by_side_are_gathered_otherwise(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)).astype("<f2"), rng.normal(size=(6, 4)).astype("<f4")
    whole = mapped(tmp_path / "a", a)
    for parts in (
        [whole, mapped(tmp_path / "b", b)],  # of two types
        [whole, mapped(tmp_path / "c", a, offset=16)],  # not on a page
        [whole[2:], whole],  # a view into a map
        [a, whole],  # not on disk
    ):
        assert not RowMap.serves(parts)
        column = FeatureColumn("toy@20x", "print", tuple(parts))
        slide, row = np.array([1, 0, 1, 1]), np.array([5, 6, 0, 5])
        expected = np.stack([parts[s][r] for s, r in zip(slide, row, strict=True)])
        np.testing.assert_array_equal(column.raw(slide, row), expected)
        np.testing.assert_array_equal(column.gather(slide, row), expected.astype(np.float32))


def test_feature_files_are_served_and_standardised_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("tissuary.store.feature_column.BLOCK_BYTES", 3 * 64 * 2)
    rng = np.random.default_rng(1)
    parts = []
    for i in range(3):
        path = tmp_path / f"s{i}.h5"
        header = FeatureHeader(f"s{i}", "print", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")
        with write_features(path, header, shape=(80, 64)) as writer:
            writer.append(rng.normal(i, 1 + i, size=(80, 64)))
        parts.append(read_features(path).features)
    assert RowMap.serves(parts)
    column = standardise(FeatureColumn("toy@20x", "print", tuple(parts)), within="slide")
    slide, row = rng.integers(0, 3, 50), rng.integers(0, 80, 50)
    values = [np.asarray(part, dtype=np.float64) for part in parts]
    expected = [(values[s][r] - values[s].mean(0)) / values[s].std(0) for s, r in zip(slide, row, strict=True)]
    np.testing.assert_allclose(column.gather(slide, row), expected, atol=1e-5)


def test_rows_outside_are_refused_also_where_another_part_lies(tmp_path):
    parts = tuple(mapped(tmp_path / str(i), np.ones((4, 8), "<f2")) for i in range(2))
    column = FeatureColumn("toy@20x", "print", parts)
    for slide, row in ((0, 4), (1, -1), (1, 4)):
        with pytest.raises(IndexError, match=rf"toy@20x: row {row} of slide number {slide}, which has 4 rows"):
            column.raw(np.array([slide]), np.array([row]))


def test_pages_are_given_back_beyond_the_limit_and_rows_stay_the_same(tmp_path, monkeypatch):
    rows = np.random.default_rng(2).normal(size=(1500, 512)).astype("<f4")  # 3 MiB, 750 pages
    part = mapped(tmp_path / "a", rows)
    whole = RowMap([part])
    out = np.empty_like(rows)
    before = memory_limit.resident_file_bytes()
    whole.take(np.arange(1500), out)
    grown = memory_limit.resident_file_bytes() - before
    if not before:
        pytest.skip("this system does not say how much of mapped files is in memory")
    assert grown >= rows.nbytes
    monkeypatch.setattr(row_map, "CHECKED_ROWS", 0)
    whole._resident = before
    whole.take(np.arange(10), out[:10])
    assert memory_limit.resident_file_bytes() - before < grown / 4
    np.testing.assert_array_equal(out, rows)


def test_the_limit_follows_ulimit(monkeypatch):
    import resource

    def limits(kind):
        return (10**9, 10**9) if kind == resource.RLIMIT_DATA else (resource.RLIM_INFINITY,) * 2

    monkeypatch.setattr(resource, "getrlimit", limits)
    assert memory_limit.memory_limit() == 10**9
