"""A file appears under its name only when it is whole: write beside it, fsync, publish."""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StoreError, TissuaryError

log = logging.getLogger(__name__)

_PARTIAL = re.compile(r"\..*\.partial-(?P<host>[^~]*)~(?P<pid>\d+)~[0-9a-f]{8}")


@contextmanager
def atomic_path(path: Path, *, once: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path` that gets its name when the block ends well.

    The temporary name starts with a dot, so that a scan of the store never sees it. On an error it is removed and
    `path` stays as it was.

    Parameters
    ----------
    once
        The file is written once and never changed: one that appeared meanwhile is kept, and an error is raised.

    Raises
    ------
    StoreError
        If the folder cannot be written, the disk is full, or (with `once`) another process was first.
    """
    temporary = path.parent / f".{path.name}.partial-{_host()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        _flush(temporary)
        _publish(temporary, path, once=once)
        _flush(path.parent)
    except OSError as error:
        if isinstance(error, TissuaryError):  # a slide that cannot be read is not this file's fault
            raise
        msg = f"cannot write {path}: {error.strerror or error}. Choose a writable folder, or free some space."
        raise StoreError(msg) from error
    finally:
        _remove(temporary)


def sweep_partials(root: Path) -> None:
    """Remove unfinished files that killed processes of this machine left in a store."""
    for path in root.rglob(".*.partial-*"):
        match = _PARTIAL.fullmatch(path.name)
        if match and match["host"] == _host() and not _alive(int(match["pid"])):
            log.info("removing %s, which a killed process left unfinished", path)
            _remove(path)


def _publish(temporary: Path, path: Path, *, once: bool) -> None:
    if not once:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # unlike a rename, this fails where the name is taken
    except FileExistsError as error:
        msg = f"{path} was written by another process meanwhile; it is kept. Run again to check that both agree."
        raise StoreError(msg) from error
    except OSError:  # a file system without hard links
        temporary.replace(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s stays behind: %s", path, error)


def _flush(path: Path) -> None:
    """Have the operating system bring a file (or a folder's entries) to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
