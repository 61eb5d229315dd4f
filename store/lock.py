"""One job at a time on a slide or a feature key, by locks that the kernel releases when their process dies."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .atomic import disk_errors
from .errors import StoreError
from .naming import check_name

log = logging.getLogger(__name__)

ASKED, PAUSE_S = 4, 0.01
"""How often a lock is tried before it counts as held, and seconds between."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def slide_lock(root: Path, slide_id: str) -> Iterator[None]:
    """Hold the exclusive lock of one slide of a store.

    The lock is `flock` on `.locks/<slide_id>.lock`. The file stays; its content (JSON: pid, host, started) only says
    who had the lock last. On a file system without locks the block runs unprotected, with a warning.

    Raises
    ------
    StoreError
        If another job holds the lock, or the store cannot be written.
    """
    path = root / ".locks" / f"{check_name(slide_id, 'slide id')}.lock"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with disk_errors(path):
            _take(descriptor, path, slide_id)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def key_lock(root: Path, key: str) -> Iterator[None]:
    """Wait for the exclusive lock of one feature key of a store, `flock` on `.locks/<key>.key`, and hold it.

    It is held for moments only: while the files of one slide are begun, or an imported one is written. On a file
    system without locks the block runs unprotected, with a warning.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    path = root / ".locks" / f"{check_name(key, 'feature key')}.key"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with disk_errors(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                _warn_without_locks(path.parent)
        yield
    finally:
        os.close(descriptor)


def is_locked(root: Path, slide_id: str) -> bool:
    """Whether a job holds the lock of a slide; True where the file system cannot tell."""
    try:
        descriptor = os.open(root / ".locks" / f"{slide_id}.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(descriptor: int, path: Path, slide_id: str) -> None:
    try:
        _try_to_lock(descriptor)
    except BlockingIOError as error:
        msg = (
            f"another job is writing slide {slide_id} ({_holder(path)}); run again when it is done; "
            "what is complete is skipped"
        )
        raise StoreError(msg) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _warn_without_locks(path.parent)
        return
    content = {"pid": os.getpid(), "host": socket.gethostname(), "started": datetime.now(UTC).isoformat("T", "seconds")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _try_to_lock(descriptor: int) -> None:
    """Lock, also where another job is just asking `is_locked`, for which it holds the lock a moment itself."""
    for _ in range(ASKED - 1):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    try:
        content = json.loads(path.read_bytes())
        return f"process {content['pid']} on {content['host']} since {content['started']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock, and has not written who it is yet
        return f"see {path}"


@functools.cache
def _warn_without_locks(folder: Path) -> None:
    log.warning("%s is on a file system without locks: let only one job at a time write this store", folder)
