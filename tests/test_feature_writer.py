"""A feature file in the making: cut, damaged, rewound, it ends as the very same bytes."""

import errno
import logging
import os
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tissuary.store.catalog import load_catalog
from tissuary.store.errors import StoreError
from tissuary.store.files.atomic import atomic_path, sweep_partials
from tissuary.store.files.features import FeatureHeader, read_features, write_features
from tissuary.store.files.journal import read_plan
from tissuary.tests.feature_jobs import BLOCK, HEADER, ORDER, PLAN, VALUES, WIDE, N, complete, hidden, start, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features" / "spots" / "toy@20x" / "C2.h5"


@pytest.fixture
def undisturbed(tmp_path):
    """Bytes of the files that runs without a kill make of VALUES and of WIDE."""
    return {id(v): complete(tmp_path / "undisturbed" / f"{i}.h5", v) for i, v in enumerate((VALUES, WIDE))}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(n=st.integers(0, 23), block_rows=st.integers(1, 9), tokens=st.sampled_from([None, 49]), seed=st.integers(0, 9))
def test_the_order_of_visiting_does_not_show_in_the_file(tmp_path, n, block_rows, tokens, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 5) if tokens is None else (n, tokens, 5)).astype(np.float32)
    order = rng.permutation(n)
    visited, in_order = tmp_path / "toy@20x" / "C2.h5", tmp_path / "in_order.h5"
    visited.unlink(missing_ok=True)
    in_order.unlink(missing_ok=True)
    with start(visited, values, order=order, block_rows=block_rows) as job:
        write(job, values, order=order, block_rows=block_rows)
        job.finish()
    with write_features(in_order, HEADER, shape=values.shape) as writer:
        writer.append(values)
    assert visited.read_bytes() == in_order.read_bytes()
    assert hidden(visited) == []
    opened = read_features(visited)
    assert (opened.header, opened.header.plan) == (HEADER, PLAN)
    np.testing.assert_array_equal(opened.features, values.astype(np.float16))
    with h5py.File(visited) as file:
        blocks = [values[i : i + 8].astype("<f2").tobytes() for i in range(0, n, 8)]
        assert list(file["crc32"][()]) == [zlib.crc32(block) for block in blocks]


def test_a_late_change_to_fp32_keeps_rows_and_leaves_no_hole(path, tmp_path):
    in_order = np.arange(N)
    values = VALUES.copy()
    values[2 * BLOCK + 3, 4] = 70_000.0
    with start(path, values, order=in_order) as job:
        write(job, values, order=in_order, until=2)
        assert hidden(path) == [".C2.h5.journal", ".C2.h5.partial-f2"]
        write(job, values, order=in_order, until=3)
        assert hidden(path) == [".C2.h5.journal", ".C2.h5.partial-f4"]
        write(job, values, order=in_order)
        job.finish()
    features = read_features(path).features
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[: 2 * BLOCK], values[: 2 * BLOCK].astype(np.float16))
    np.testing.assert_array_equal(features[2 * BLOCK :], values[2 * BLOCK :])
    with write_features(tmp_path / "w.h5", HEADER, shape=values.shape) as writer:
        writer.append(values)
    assert path.read_bytes() == (tmp_path / "w.h5").read_bytes()


@pytest.mark.parametrize("back_to", [0, 1, 2, 3, 4])
def test_rewinding_across_the_change_to_fp32_changes_no_byte(path, back_to, undisturbed):
    with start(path, WIDE) as job:
        write(job, WIDE, until=4)
        job.rewind(back_to)
        assert job.blocks_done == back_to
    with start(path, WIDE) as job:
        assert job.blocks_done == back_to
        write(job, WIDE)
        job.finish()
    assert path.read_bytes() == undisturbed[id(WIDE)]


def test_rewinding_forward_forgets_nothing(path):
    with start(path) as job:
        write(job, until=3)
        job.rewind(4)
        assert job.blocks_done == 3


def test_a_journal_torn_at_any_byte_is_read_up_to_there(path, undisturbed):
    with start(path, WIDE) as job:
        write(job, WIDE, until=4)
    journal = path.with_name(".C2.h5.journal")
    whole = journal.read_bytes()
    saved = shutil.copytree(path.parent, path.parent.parent / "saved")
    for size in (*range(0, len(whole), 97), len(whole) - 1):
        shutil.copytree(saved, path.parent, dirs_exist_ok=True)
        journal.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        with start(path, WIDE) as job:
            # Without a block of fp32 in the journal, the rows are those of the fp16 file, which is gone.
            assert job.blocks_done == (max(lines - 1, 0) if lines >= 4 else 0)
            write(job, WIDE)
            job.finish()
        assert path.read_bytes() == undisturbed[id(WIDE)]
        path.unlink()


@pytest.mark.parametrize("line", [b'{"block": 2, "crc3', b"\0\0\0\0\n", b'{"block": 7, "rows": 8}\n', b"[]\n", b"7\n"])
def test_a_line_that_is_none_ends_the_journal(path, line, undisturbed):
    with start(path) as job:
        write(job, until=2)
    with path.with_name(".C2.h5.journal").open("ab") as file:
        file.write(line)
    with start(path) as job:
        assert job.blocks_done == 2
        write(job)
        job.finish()
    assert path.read_bytes() == undisturbed[id(VALUES)]


def test_lines_after_a_damaged_one_do_not_come_back(path):
    with start(path) as job:
        write(job, until=4)
    journal = path.with_name(".C2.h5.journal")
    journal.write_bytes(journal.read_bytes().replace(b'"block": 1', b'"block": 9'))
    with start(path) as job:
        assert job.blocks_done == 1
        write(job, until=2)
        assert read_plan(path) == (PLAN, 2)


@pytest.mark.parametrize(("values", "suffix"), [(VALUES, "f2"), (WIDE, "f4")], ids=["fp16", "fp32"])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_flipped_bit_is_found_and_computed_again_from_there(path, values, suffix, block, undisturbed, caplog):
    with start(path, values) as job:
        write(job, values, until=4)
    partial = path.with_name(f".C2.h5.partial-{suffix}")
    with h5py.File(partial) as file:
        features = file["features"]
        row = int(ORDER[block * BLOCK + 5])
        place = features.id.get_offset() + row * 6 * features.dtype.itemsize  # the lowest bits of the row's first value
    data = bytearray(partial.read_bytes())
    data[place] ^= 1
    partial.write_bytes(data)
    with start(path, values) as job:
        assert job.blocks_done == block
        write(job, values)
        job.finish()
    assert f"block {block} of 5 is damaged" in caplog.text
    assert path.read_bytes() == undisturbed[id(values)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"plan": PLAN | {"batch": 64}}, "other plan"),
        ({"order": ORDER[::-1]}, "other order_sha256"),
        ({"block_rows": 4}, "other visited_block_rows"),
        ({"header": FeatureHeader(**asdict(HEADER) | {"fingerprint": "0" * 64})}, "other fingerprint"),
        ({"values": VALUES[:, :5]}, "other shape"),
    ],
)
def test_what_another_identity_left_is_not_used(path, changed, why, caplog):
    with start(path) as job:
        write(job, until=3)
    with start(path, **changed) as job:
        assert job.blocks_done == 0
    assert f"starts from its first row; what an earlier job left of it cannot be used: {why}" in caplog.text


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.98])
def test_a_truncated_partial_is_begun_anew(path, keep, undisturbed, caplog):
    with start(path) as job:
        write(job, until=3)
    partial = path.with_name(".C2.h5.partial-f2")
    partial.write_bytes(partial.read_bytes()[: int(partial.stat().st_size * keep)])
    with start(path) as job:
        assert job.blocks_done == 0
        write(job)
        job.finish()
    assert "starts from its first row" in caplog.text
    assert path.read_bytes() == undisturbed[id(VALUES)]


def test_a_frozen_plan_can_be_adopted(path, caplog):
    caplog.set_level(logging.INFO)
    assert read_plan(path) is None
    with start(path) as job:
        write(job, until=3)
    before = {found: found.read_bytes() for found in path.parent.iterdir()}
    assert read_plan(path) == (PLAN, 3)
    assert {found: found.read_bytes() for found in path.parent.iterdir()} == before
    with start(path, plan=read_plan(path)[0]) as job:
        assert job.blocks_done == 3
    assert "3 blocks of a former job are there" in caplog.text


def test_nan_is_named_and_the_blocks_before_are_kept(path, undisturbed):
    broken = VALUES.copy()
    broken[ORDER[BLOCK + 2], 1] = np.nan
    with start(path) as job, pytest.raises(StoreError) as caught:
        write(job, broken)
    assert str(caught.value) == (
        f"slide C2: the backbone gave NaN or infinity in row {ORDER[BLOCK + 2]} of toy@20x (backbone toy). "
        "Run it in fp32, or check the patch and the weights."
    )
    with start(path) as job:
        assert job.blocks_done == 1
        write(job)
        job.finish()
    assert path.read_bytes() == undisturbed[id(VALUES)]


def test_wrong_blocks_and_early_ends_are_refused(path):
    with pytest.raises(StoreError, match="the order of 39 visits is no permutation of 40 rows"):
        start(path, order=ORDER[1:])
    with start(path) as job:
        with pytest.raises(StoreError, match="these 8 rows are not block 0 of 5"):
            job.write(ORDER[BLOCK : 2 * BLOCK], VALUES[:BLOCK])
        with pytest.raises(StoreError, match=r"rows of shape \(5,\), wanted \(6,\)"):
            job.write(ORDER[:BLOCK], VALUES[:BLOCK, :5])
        write(job, until=4)
        with pytest.raises(StoreError, match="4 blocks were written, wanted 5"):
            job.finish()
        write(job)
        with pytest.raises(StoreError, match="these 0 rows are not block 5 of 5"):
            job.write(ORDER[:0], VALUES[:0])


def test_a_file_that_another_job_published_is_kept(path):
    with start(path) as job:
        write(job)
        with write_features(path, HEADER, shape=(2, 3)) as writer:
            writer.append(np.ones((2, 3), np.float32))
        with pytest.raises(StoreError, match="was written by another process meanwhile; it is kept"):
            job.finish()
    np.testing.assert_array_equal(read_features(path).features, np.ones((2, 3)))
    assert hidden(path) == []
    with pytest.raises(StoreError, match="is complete, and a file is written once"):
        start(path)


OTHER_PLAN = PLAN | {"batch": 64}  # what one job left, the other begins anew, under the same hidden names


@pytest.mark.parametrize("values", [VALUES, WIDE], ids=["fp16", "fp32"])
def test_a_job_whose_files_another_began_anew_stops_and_harms_nothing(path, tmp_path, values):
    expected = tmp_path / "expected.h5"
    with start(expected, values, plan=OTHER_PLAN) as job:
        write(job, values)
        job.finish()
    for until in (2, 4):  # before and after WIDE has gone on in a file of fp32
        with start(path, values) as slow:
            write(slow, values, until=2)
            with start(path, values, plan=OTHER_PLAN) as quick:
                write(quick, values, until=until)
                with pytest.raises(StoreError, match=r"another job has started .*C2\.h5 from its first row meanwhile"):
                    write(slow, values)  # the third block of WIDE would put its own file of fp32 there
                with pytest.raises(StoreError, match="first row meanwhile"):
                    slow.rewind(0)
                write(quick, values)
                quick.finish()
        assert path.read_bytes() == expected.read_bytes()
        path.unlink()


def test_a_whole_file_is_not_published_where_its_name_is_another_jobs(path, undisturbed):
    with start(path) as done:
        write(done)
        with start(path, plan=OTHER_PLAN) as begun:
            with pytest.raises(StoreError, match="first row meanwhile; it is left to that job"):
                done.finish()
            assert not path.exists()
            write(begun)
            begun.finish()
    np.testing.assert_array_equal(read_features(path).features, VALUES.astype(np.float16))
    assert read_features(path).header.plan == OTHER_PLAN


def test_a_guard_is_asked_before_each_line_and_before_publication(path):
    asked, journal = [], path.with_name(".C2.h5.journal")

    def guard():
        asked.append((journal.read_bytes().count(b"\n") - 1, path.exists()))
        if len(asked) == stop:
            msg = "the claim was lost"
            raise StoreError(msg)

    stop = 3
    with start(path) as job, pytest.raises(StoreError, match="the claim was lost"):
        job.guard(guard)
        write(job)
    assert asked == [(0, False), (1, False), (2, False)]
    assert read_plan(path) == (PLAN, 2)
    asked.clear()
    stop = 4  # three blocks are left
    with start(path) as job:
        job.guard(guard)
        write(job)
        with pytest.raises(StoreError, match="the claim was lost"):
            job.finish()
    assert asked == [(2, False), (3, False), (4, False), (5, False)]
    assert not path.exists()
    with start(path) as job:
        assert job.blocks_done == 5
        job.finish()


@pytest.mark.parametrize("same", [True, False], ids=["answer lost", "another was first"])
def test_a_name_that_was_given_though_the_server_says_it_is_taken(tmp_path, monkeypatch, same):
    real, path = Path.hardlink_to, tmp_path / "C2.h5"

    def link(self, target):
        if same:
            real(self, target)
        else:
            self.write_bytes(b"another's")
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def publish():
        with atomic_path(path, once=True) as temporary:
            temporary.write_bytes(b"ours")

    monkeypatch.setattr(Path, "hardlink_to", link)
    if same:
        publish()
    else:
        with pytest.raises(StoreError, match="was written by another process meanwhile; it is kept"):
            publish()
    assert path.read_bytes() == (b"ours" if same else b"another's")
    assert hidden(path) == []


def test_leftovers_are_swept_once_the_file_is_there(path):
    with start(path) as job:
        write(job, until=2)
    root = path.parents[3]
    sweep_partials(root)
    assert hidden(path) == [".C2.h5.journal", ".C2.h5.partial-f2"]
    assert load_catalog(root) == ()
    path.with_name(".C2.h5.partial-f4").touch()
    with write_features(path, HEADER, shape=(2, 3)) as writer:
        writer.append(np.ones((2, 3), np.float32))
    assert [entry.slide_id for entry in load_catalog(root)] == ["C2"]
    sweep_partials(root)
    assert hidden(path) == []
