"""A feature file whose process is killed, or whose disk fills up, at any moment: it ends as the very same bytes."""

import os
import resource
import shutil
import signal
import time
import traceback

import numpy as np
import pytest

from tissuary.store.errors import StoreError
from tissuary.store.files.atomic import sweep_partials
from tissuary.store.files.features import write_features
from tissuary.store.files.journal import read_plan
from tissuary.tests.feature_jobs import BLOCK, HEADER, VALUES, WIDE, N, complete, hidden, start, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features" / "spots" / "toy@20x" / "C2.h5"


def test_twelve_kills_at_random_moments_change_no_byte(path, tmp_path):
    expected = complete(tmp_path / "undisturbed.h5", WIDE)
    found = []
    for wait_s in np.random.default_rng(0).uniform(0, 0.04, size=12):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            with start(path, WIDE) as job:
                os.write(writing, b"ready")
                for until in range(job.blocks_done, job.blocks + 1):
                    time.sleep(0.015)
                    write(job, WIDE, until=until)
                job.finish()
            os._exit(0)
        os.read(reading, 5)
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
        if path.exists():
            break
        found.append(read_plan(path)[1])
    assert found == sorted(found)  # nothing that was written is lost
    assert any(0 < blocks < N // BLOCK for blocks in found)
    sweep_partials(path.parents[3])
    if not path.exists():
        with start(path, WIDE) as job:
            write(job, WIDE)
            job.finish()
    assert path.read_bytes() == expected


def killed_at_call(number, act):
    """Run `act` in a process that is killed in the middle of its `number`-th change of a file.

    Returns what `act` reported (numbers, through the function it is given), and whether the kill came.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def deadly(function):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == number:
                    if function is original["pwrite"]:
                        function(args[0], args[1][: len(args[1]) // 2], args[2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        names = ("pwrite", "replace", "unlink", "link", "ftruncate", "fsync", "mkdir")
        original = {name: getattr(os, name) for name in names}
        for name, function in original.items():
            setattr(os, name, deadly(function))
        try:
            act(lambda done: os.write(writing, bytes([done])))
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        reported = list(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return reported, status == -signal.SIGKILL


@pytest.mark.parametrize("largest", [1.0, 70_000.0], ids=["fp16", "fp32 from the third block on"])
def test_a_kill_at_any_change_of_a_file_loses_one_block_at_most(path, tmp_path, largest):
    order = np.roll(np.arange(N), BLOCK // 2)  # the first block is two pieces of the file
    values = VALUES.copy()
    values[order[2 * BLOCK], 0] = largest
    expected = complete(tmp_path / "undisturbed.h5", values, order=order)

    def act(report):
        with start(path, values, order=order) as job:
            for until in (1, 2, 3, 4):
                write(job, values, until=until, order=order)
                report(until)
            report(1)
            job.rewind(1)
            for until in (2, 3, 4, 5):
                write(job, values, until=until, order=order)
                report(until)
            job.finish()

    number, killed = 0, True
    while killed:
        shutil.rmtree(path.parent, ignore_errors=True)
        number += 1
        reported, killed = killed_at_call(number, act)
        sweep_partials(path.parents[3])
        if not path.exists():
            with start(path, values, order=order) as job:
                assert job.blocks_done >= (reported[-1] if reported else 0), number
                write(job, values, order=order)
                job.finish()
        assert path.read_bytes() == expected, number
        assert hidden(path) == [], number
    assert number > 40  # every change was a moment to die in


@pytest.mark.parametrize(
    ("limit_bytes", "done"), [(8_192 + 20 * 2_048, 2), (8_192 + 40 * 2_048, 3)], ids=["rows", "change to fp32"]
)
def test_a_full_disk_is_named_and_work_goes_on_when_there_is_room(path, tmp_path, limit_bytes, done):
    """A limit on the size of files plays the disk: what lies beyond it cannot be written."""
    values, order = np.random.default_rng(0).normal(size=(N, 1024)).astype(np.float32), np.arange(N)
    values[3 * BLOCK, 0] = 70_000.0

    def act(report):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StoreError, match=r"(?s)cannot .*[Ff]ree some space"):
            start(path, values, order=order)
        assert hidden(path) == []
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        with start(path, values, order=order) as job:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
            with pytest.raises(StoreError, match=r"(?s)cannot .*[Ff]ree some space"):
                write(job, values, order=order)
            report(job.blocks_done)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            write(job, values, order=order)
            job.finish()

    assert killed_at_call(0, act) == ([done], False)
    with write_features(tmp_path / "w.h5", HEADER, shape=values.shape) as writer:
        writer.append(values)
    assert path.read_bytes() == (tmp_path / "w.h5").read_bytes()
