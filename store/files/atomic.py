"""A file appears under its name only when it is whole: write beside it, fsync, publish."""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError, TissuaryError

log = logging.getLogger(__name__)

_PARTIAL = re.compile(r"\..*\.partial-(?P<host>[^~]*)~(?P<pid>\d+)~[0-9a-f]{8}")

RESUMABLE = ("partial-f2", "partial-f4", "journal")
"""Endings of what a killed job leaves beside a feature file, to go on from."""

_RESUMABLE = re.compile(rf"\.(?P<name>[^.].*)\.(?:{'|'.join(RESUMABLE)})")


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
    # A name may have 255 characters; the start of a long one is enough here.
    temporary = path.parent / f".{path.name[:120]}.partial-{_host()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            yield temporary
            if once:
                publish(temporary, path)
            else:
                _flush(temporary)
                temporary.replace(path)
                _flush(path.parent)
    finally:
        _remove(temporary)


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing could be written, before the work that would be lost; nothing is made.

    Raises
    ------
    StoreError
        If a file is in its place, or may not be written where it is or would be.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        msg = f"cannot write {folder}: {there} is a file. Choose another folder."
        raise StoreError(msg)
    if not os.access(there, os.W_OK | os.X_OK):
        msg = f"cannot write {folder}: {there} may not be written. Choose a writable folder."
        raise StoreError(msg)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TissuaryError):  # a slide that cannot be read is not this file's fault
            raise
        msg = f"cannot write {path}: {error.strerror or error}. Choose a writable folder, or free some space."
        raise StoreError(msg) from error


def publish(temporary: Path, path: Path, *, check: Callable[[], None] | None = None) -> None:
    """Bring a whole file to the disk and give it its name, for good; `temporary` may stay as a second name.

    Parameters
    ----------
    check
        Called last before the name is given; it raises where `temporary` is not the caller's file any more.

    Raises
    ------
    StoreError
        If the name was taken meanwhile: a file is written once and never changed.
    """
    msg = f"{path} was written by another process meanwhile; it is kept. Run again to check that both agree."
    if path.exists():
        raise StoreError(msg)
    _flush(temporary)
    if check is not None:
        check()
    try:
        path.hardlink_to(temporary)  # unlike a rename, this fails where the name is taken
    except FileExistsError as error:
        found, own = named_file(path), named_file(temporary)
        if found is None or own is None or not os.path.samestat(found, own):
            raise StoreError(msg) from error
        # It got its name, and the file server's answer was lost: asked again, the server says that the name is taken.
    except OSError:  # a file system without hard links
        temporary.replace(path)
    _flush(path.parent)


def named_file(path: Path) -> os.stat_result | None:
    """The file that a name stands for now, None where there is none. Opening it makes an NFS client ask the server."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno())
    except FileNotFoundError:
        return None


def check_named(opened: Mapping[Path, os.stat_result | None], path: Path) -> None:
    """See that names beside the unfinished `path`, which all jobs share, still stand for the files that were opened.

    Raises
    ------
    StoreError
        If another job has begun them anew.
    """
    for name, own in opened.items():
        found = named_file(name)
        if found is None or own is None or not os.path.samestat(found, own):
            msg = (
                f"another job has started {path} from its first row meanwhile; it is left to that job. Run again when "
                "it is done; what is complete is skipped."
            )
            raise StoreError(msg)


def write_at(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write all of `content` at a place in a file; a full disk raises `OSError`, where a memory map would kill."""
    left = memoryview(content)
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done


def resumable_path(path: Path, ending: str) -> Path:
    """Where an unfinished `path` keeps what ends so (one of `RESUMABLE`): beside it, hidden, the same for all jobs."""
    return path.with_name(f".{path.name}.{ending}")


def remove_resumable(path: Path) -> None:
    """Remove what an unfinished `path` could go on from."""
    for ending in RESUMABLE:
        _remove(resumable_path(path, ending))


def sweep_partials(root: Path, *, pattern: str = "**/.*") -> None:
    """Remove unfinished files that killed processes of this machine left in a store, or where the pattern says.

    What a job can go on from stays, unless the file it was to become is there.
    """
    for path in root.glob(pattern):
        match = _PARTIAL.fullmatch(path.name)
        if match and match["host"] == _host() and not _alive(int(match["pid"])):
            log.info("removing %s, which a killed process left unfinished", path)
            _remove(path)
            continue
        match = _RESUMABLE.fullmatch(path.name)
        if match and path.with_name(match["name"]).exists():
            log.info("removing %s, which a finished job left behind", path)
            _remove(path)


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
