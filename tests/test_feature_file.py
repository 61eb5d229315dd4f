"""Feature files: written whole or not at all, read through a memory map, refused when they are not what they say."""

import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tissuary.store.errors import StoreError
from tissuary.store.files.features import FeatureHeader, read_features, write_features

HEADER = FeatureHeader("s1", "f" * 64, {"key": "toy"}, 0.5, 112.0, 1.0, "fp32", "d" * 64, 0.5, "e" * 64, block_rows=4)


def write(path, values, *, pieces=3, header=HEADER):
    with write_features(path, header, shape=values.shape) as writer:
        for piece in np.array_split(values, pieces):
            writer.append(piece)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(rows=st.integers(0, 23), pieces=st.integers(1, 7), tokens=st.sampled_from([None, 5]))
def test_round_trip_does_not_depend_on_how_rows_arrive(tmp_path, rows, pieces, tokens):
    shape = (rows, 6) if tokens is None else (rows, tokens, 6)
    values = np.random.default_rng(rows).normal(size=shape).astype(np.float32)
    path = tmp_path / "f.h5"
    path.unlink(missing_ok=True)
    write(path, values, pieces=pieces)
    opened = read_features(path)
    assert opened.header == HEADER
    assert opened.features.dtype == np.float16
    np.testing.assert_array_equal(opened.features, values.astype(np.float16))


def test_rows_are_one_aligned_uncompressed_mapping(tmp_path):
    values = np.random.default_rng(0).normal(size=(1000, 6)).astype(np.float32)
    path = tmp_path / "f.h5"
    write(path, values)
    features = read_features(path).features
    assert isinstance(features, np.memmap)
    assert features.offset % 4096 == 0
    assert not features.flags.writeable
    raw = path.read_bytes()[features.offset : features.offset + values.size * 2]
    assert raw == values.astype("<f2").tobytes()


def test_checksums_are_crc32_of_each_block(tmp_path):
    values = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    write(tmp_path / "f.h5", values)
    blocks = [values[i : i + 4].astype("<f2").tobytes() for i in (0, 4, 8)]
    with h5py.File(tmp_path / "f.h5") as file:
        assert list(file["crc32"][()]) == [zlib.crc32(block) for block in blocks]
        assert (file.attrs["encoding-type"], file.attrs["encoding-version"]) == ("tissuary-features", "1")


def test_two_writings_are_the_same_bytes(tmp_path):
    values = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    write(tmp_path / "a.h5", values, pieces=1)
    write(tmp_path / "b.h5", values, pieces=5)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_values_beyond_half_precision_are_kept_as_fp32_from_the_first_block_on(tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    values[9, 2] = 70_000.0  # past 65,504
    write(tmp_path / "f.h5", values)
    features = read_features(tmp_path / "f.h5").features
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[8:], values[8:])
    np.testing.assert_array_equal(features[:8], values[:8].astype(np.float16))


def test_a_late_change_to_fp32_leaves_no_hole(tmp_path):
    early = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    late = early.copy()
    early[0, 2] = late[999, 2] = 70_000.0
    write(tmp_path / "early.h5", early)
    write(tmp_path / "late.h5", late)
    assert (tmp_path / "late.h5").stat().st_size == (tmp_path / "early.h5").stat().st_size
    assert (tmp_path / "late.h5").stat().st_size < late.nbytes + 3 * 4096


def test_the_plan_is_on_record_and_not_part_of_what_the_rows_are(tmp_path):
    values, plan = np.ones((3, 2), np.float32), {"batch": 32, "device": "cpu"}
    write(tmp_path / "f.h5", values, header=replace(HEADER, plan=plan))
    header = read_features(tmp_path / "f.h5").header
    assert header.plan == plan
    assert header == HEADER
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file.attrs["plan"]  # as in files made before it was recorded
    assert read_features(tmp_path / "f.h5").header.plan == {}


def test_nan_is_named_with_slide_and_row(tmp_path):
    values = np.zeros((10, 3), np.float32)
    values[7, 1] = np.nan
    message = rf"slide s1: the backbone gave NaN or infinity in row 7 of {tmp_path.name} \(backbone toy\)"
    with pytest.raises(StoreError, match=message):
        write(tmp_path / "f.h5", values)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_process_wrote_first_is_kept(tmp_path):
    path = tmp_path / "f.h5"
    with (
        pytest.raises(StoreError, match="written by another process meanwhile"),
        write_features(path, HEADER, shape=(2, 3)) as writer,
    ):
        writer.append(np.zeros((2, 3), np.float32))
        write(path, np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(read_features(path).features, np.ones((2, 3)))
    assert list(tmp_path.iterdir()) == [path]


def test_missing_rows_leave_no_file(tmp_path):
    def short():
        with write_features(tmp_path / "f.h5", HEADER, shape=(5, 3)) as writer:
            writer.append(np.zeros((4, 3), np.float32))

    with pytest.raises(StoreError, match="4 rows were written, wanted 5"):
        short()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "f.h5"
    write(path, np.ones((5, 3), np.float32))
    before = path.read_bytes()
    with pytest.raises(StoreError, match="NaN or infinity in row 0"):
        write(path, np.ones((5, 3), np.float32) * np.inf)
    with pytest.raises(StoreError, match="rows of shape"), write_features(path, HEADER, shape=(5, 4)) as writer:
        writer.append(np.zeros((5, 3), np.float32))
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncation_is_caught_at_opening(tmp_path, keep):
    path = tmp_path / "f.h5"
    write(path, np.ones((4000, 8), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(StoreError, match=r"not a whole HDF5 file|truncated"):
        read_features(path)


def test_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros((3, 2), np.float16)
    with pytest.raises(StoreError, match="says that it is none version none; wanted tissuary-features version 1"):
        read_features(path)
    path.unlink()
    write(path, np.ones((3, 2), np.float32))
    with h5py.File(path, "a") as file:
        file.attrs["encoding-version"] = "2"
    with pytest.raises(StoreError, match="needs a newer tissuary"):
        read_features(path)
    with pytest.raises(StoreError, match="does not exist"):
        read_features(tmp_path / "none.h5")


def test_data_in_another_file_is_refused(tmp_path):
    write(tmp_path / "f.h5", np.ones((3, 2), np.float32))
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 64)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["features"]
        file.create_dataset("features", (3, 2), "<f2", external=[(str(secret), 0, 12)])
    with pytest.raises(StoreError, match="inside this file"):
        read_features(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink("other.h5", "features")
    with pytest.raises(StoreError, match="inside this file"):
        read_features(tmp_path / "f.h5")


def test_filtered_data_is_refused(tmp_path):
    write(tmp_path / "f.h5", np.ones((3, 2), np.float32))
    with h5py.File(tmp_path / "f.h5", "a") as file:
        del file["features"]
        file.create_dataset("features", data=np.ones((3, 2), "<f2"), compression="gzip")
    with pytest.raises(StoreError, match="only chunks of whole rows without filter"):
        read_features(tmp_path / "f.h5")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot write"):
        write(tmp_path / "taken" / "f.h5", np.ones((3, 2), np.float32))
