"""One job at a time on a slide; a dead job's lock is no lock."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tissuary.store.errors import InvalidNameError, StoreError
from tissuary.store.files.lock import slide_lock
from tissuary.tests.crowds import one_at_a_time

HOLDER = """
import sys
from pathlib import Path
from tissuary.store.errors import StoreError
from tissuary.store.files.lock import slide_lock
sys.stdin.readline()
try:
    with slide_lock(Path(sys.argv[1]), "C2"):
        print("mine", flush=True)
        sys.stdin.readline()
except StoreError as error:
    print(error, flush=True)
"""


@contextmanager
def processes(root, count):
    """Other interpreters that take the lock at a line on their input, and let it go at the next."""
    command = [sys.executable, "-c", HOLDER, root]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_a_held_lock_is_refused_and_a_killed_holder_frees_it_at_once(tmp_path):
    with processes(tmp_path, 1) as (holder,):
        print(file=holder.stdin)
        assert holder.stdout.readline() == "mine\n"
        message = (
            rf"another job is writing slide C2 \(process {holder.pid} on {socket.gethostname()} since 20..-..-..T.*\); "
            "run again when it is done; what is complete is skipped"
        )
        with pytest.raises(StoreError, match=message), slide_lock(tmp_path, "C2"):
            pytest.fail("two jobs on one slide")
        with slide_lock(tmp_path, "C1"):  # another slide is free
            pass
        holder.kill()
        holder.wait()
        with slide_lock(tmp_path, "C2"):
            assert json.loads((tmp_path / ".locks" / "C2.lock").read_text())["pid"] == os.getpid()


def test_of_two_processes_one_gets_the_lock(tmp_path):
    with processes(tmp_path, 2) as both:
        for process in both:
            print(file=process.stdin)
        said = sorted(process.stdout.readline() for process in both)
    assert said[1] == "mine\n"
    assert said[0].startswith("another job is writing slide C2")


def test_of_many_threads_one_gets_the_lock(tmp_path):
    assert one_at_a_time(lambda: slide_lock(tmp_path, "C2"), StoreError) == (5, 35)


def test_a_job_begins_while_another_asks_whether_the_slide_is_locked(tmp_path, monkeypatch):
    """A job that asks holds the lock a moment itself, which is no reason to refuse the one that wants to write."""
    with slide_lock(tmp_path, "C2"):
        pass
    with (tmp_path / ".locks" / "C2.lock").open("r+") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
        with slide_lock(tmp_path, "C2"), pytest.raises(BlockingIOError):
            fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_an_error_inside_lets_the_lock_go(tmp_path):
    with pytest.raises(RuntimeError, match="of the job"), slide_lock(tmp_path, "C2"):
        msg = "of the job"
        raise RuntimeError(msg)
    with slide_lock(tmp_path, "C2"):
        pass


def test_a_holder_that_has_not_said_who_it_is_is_refused_too(tmp_path):
    path = tmp_path / ".locks" / "C2.lock"
    path.parent.mkdir()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(StoreError, match=r"another job is writing slide C2 \(see .*C2.lock\)"),
            slide_lock(tmp_path, "C2"),
        ):
            pytest.fail("two jobs on one slide")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, caplog, code):
    def refuse(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(3):
        with slide_lock(tmp_path, "C2"):
            pass
    assert caplog.text.count("is on a file system without locks: let only one job at a time write this store") == 1


def test_a_store_that_cannot_be_written_and_a_bad_name_are_named(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot write"), slide_lock(tmp_path / "taken", "C2"):
        pass
    with pytest.raises(InvalidNameError, match="cannot become a file name"), slide_lock(tmp_path, "../C2"):
        pass
