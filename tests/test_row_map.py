"""Rows of many files as one array: the same rows as concatenating them, and pages that are given back."""

import mmap
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store import limits as memory_limit
from tissuary.store.errors import DamagedFileError
from tissuary.store.files import mapped as row_map
from tissuary.store.files.column import FeatureColumn, standardise
from tissuary.store.files.features import FeatureHeader, read_features, write_features
from tissuary.store.files.mapped import RowMap

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
    assert RowMap.served(parts, np.dtype(dtype)) == list(range(len(parts)))
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
    for parts, served in (
        ([whole, mapped(tmp_path / "b", b)], [1]),  # of two types: those of the wider one
        ([whole, mapped(tmp_path / "c", a, offset=16)], [0]),  # not on a page
        ([whole[2:], whole], [1]),  # a view into a map
        ([a, whole], [1]),  # not on disk
    ):
        assert RowMap.served(parts, np.result_type(*parts)) == served
        column = FeatureColumn("toy@20x", "print", tuple(parts))
        slide, row = np.array([1, 0, 1, 1]), np.array([5, 6, 0, 5])
        expected = np.stack([parts[s][r] for s, r in zip(slide, row, strict=True)])
        np.testing.assert_array_equal(column.raw(slide, row), expected)
        np.testing.assert_array_equal(column.gather(slide, row), expected.astype(np.float32))


def test_feature_files_are_served_and_standardised_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr("tissuary.store.files.column.BLOCK_BYTES", 3 * 64 * 2)
    rng = np.random.default_rng(1)
    parts = []
    for i in range(3):
        path = tmp_path / f"s{i}.h5"
        header = FeatureHeader(f"s{i}", "print", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")
        with write_features(path, header, shape=(80, 64)) as writer:
            writer.append(rng.normal(i, 1 + i, size=(80, 64)))
        parts.append(read_features(path).features)
    assert RowMap.served(parts, np.dtype("<f2")) == [0, 1, 2]
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


def features_of(path, value, *, slide="s", rows=80):
    header = FeatureHeader(slide, "print", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")
    with write_features(path, header, shape=(rows, 64)) as writer:
        writer.append(np.full((rows, 64), value))
    return path


def test_a_file_that_was_replaced_gives_the_rows_that_were_opened(tmp_path, caplog):
    path = features_of(tmp_path / "s.h5", 1.0)
    column = FeatureColumn("toy@20x", "print", (read_features(path).features,))
    path.unlink()
    features_of(path, 7.0)
    assert (column.gather(np.zeros(3, int), np.arange(3)) == 1.0).all()
    assert "another file has taken its place" in caplog.text
    assert (column.select([0]).gather(np.zeros(3, int), np.arange(3)) == 1.0).all()
    path.unlink()
    assert (column.select([0]).gather(np.zeros(3, int), np.arange(3)) == 1.0).all()


def test_a_file_that_was_cut_off_since_is_an_error_and_no_signal(tmp_path):
    path = features_of(tmp_path / "s.h5", 1.0)
    column = FeatureColumn("toy@20x", "print", (read_features(path).features,))
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DamagedFileError, match="was cut off after it was opened"):
        column.gather(np.zeros(3, int), np.arange(3))


def test_empty_and_odd_slides_leave_the_others_side_by_side(tmp_path):
    files = [features_of(tmp_path / f"{n}.h5", float(n), rows=n) for n in (40, 1, 60)]
    parts = [*(read_features(path).features for path in files), np.empty((0, 64), "<f2")]
    assert RowMap.served(parts, np.dtype("<f2")) == [0, 2]  # a row of 128 bytes is not aligned to pages
    column = FeatureColumn("toy@20x", "print", tuple(parts))
    slide = np.array([2, 1, 0, 0, 2])
    assert column.gather(slide, np.array([59, 0, 39, 0, 0]))[:, 0].tolist() == [60, 1, 40, 40, 60]
    assert column.raw(np.empty(0, int), np.empty(0, int)).shape == (0, 64)


def test_a_forked_child_gathers_too(tmp_path):
    """Torch's threads do not come along with a fork: waiting for them would never end."""
    script = """
import os, sys, torch
import numpy as np
from pathlib import Path
from tissuary.store.files.column import FeatureColumn
from tissuary.store.files.features import read_features
column = FeatureColumn("toy@20x", "print", (read_features(Path(sys.argv[1])).features,))
def total():
    return float(column.gather(np.zeros(2000, int), np.arange(2000)).sum())
expected = total()
child = os.fork()
if child == 0:
    os._exit(0 if total() == expected else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = features_of(tmp_path / "s.h5", 1.0, rows=2000)
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == 0


def test_the_limit_is_that_of_the_narrowest_group_around(tmp_path, monkeypatch):
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("12345678\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory_limit, "_groups", lambda: [(tmp_path, "/job/step")])
    assert memory_limit.memory_limit() == 12345678
