"""One job at a time on a slide or a feature key, by locks that the kernel releases when their process dies."""

from __future__ import annotations

import errno
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..naming import check_name
from .atomic import disk_errors

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


BEAT_S = 15.0
"""How often a claim is kept fresh."""

STALE_S = 120.0
"""Age at which the claim of another machine counts as left behind. NFS may show an age that is a minute too old."""

_HELD: dict[Path, str] = {}
"""Claims of this process, and the key that each was written with."""


class SlideBusyError(StoreError):
    """A slide that another job is at."""


@contextmanager
def claim(root: Path, slide_id: str) -> Iterator[None]:
    """Hold the claim `.locks/<slide_id>.claim` of one slide of a store.

    Raises
    ------
    SlideBusyError
        If another job holds it.
    StoreError
        If the store cannot be written.
    """
    path = _claim_path(root, slide_id)
    own = path.with_name(f".{path.name[:120]}-{uuid.uuid4().hex}")
    me = _self()
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            own.write_text(json.dumps(me))
            _take_claim(own, path, slide_id)
        finally:
            own.unlink(missing_ok=True)
    key = _HELD[path] = me["key"]
    done = threading.Event()
    beat = threading.Thread(target=_keep_fresh, args=(path, key, done), name="claim", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        if _HELD.get(path) == key:
            del _HELD[path]
        _let_go(path, key)


def check_claim(root: Path, slide_id: str) -> None:
    """See that a claim of this process is still its own.

    Raises
    ------
    SlideBusyError
        If it was taken over, as from a job that slept, or is gone.
    StoreError
        If the claim cannot be read.
    """
    path = _claim_path(root, slide_id)
    with disk_errors(path):
        holder, _ = _read(path, now_s=0.0)
    if holder is None or holder.get("key") is None or holder["key"] != _HELD.get(path):
        who = "nobody" if holder is None else f"process {holder.get('pid')} on {holder.get('host')}"
        msg = (
            f"the claim on slide {slide_id} was lost: {who} has it now. Was this job asleep, or its file server away? "
            "The slide is left to that job, and what is complete is skipped"
        )
        raise SlideBusyError(msg)


def _claim_path(root: Path, slide_id: str) -> Path:
    return root / ".locks" / f"{check_name(slide_id, 'slide id')}.claim"


def _take_claim(own: Path, path: Path, slide_id: str) -> None:
    for _ in range(3):  # a claim that was left behind is moved away, and another job may then be first
        if _appeared(own, path):
            return
        holder, age_s = _read(path, now_s=own.stat().st_mtime)
        if holder is None:
            continue
        if not _left_behind(holder, age_s):
            msg = (
                f"another job is at slide {slide_id} (process {holder.get('pid')} on {holder.get('host')} since "
                f"{holder.get('started')}); it is left to that job, and what is complete is skipped"
            )
            raise SlideBusyError(msg)
        log.warning(
            "slide %s: taken over from process %s on %s, which is gone", slide_id, holder["pid"], holder["host"]
        )
        _move_away(path, holder)
    msg = f"several jobs want slide {slide_id} at once; it is left to them"
    raise SlideBusyError(msg)


def _appeared(own: Path, path: Path) -> bool:
    """Give a claim its name; tell whether it got it, and not that of another job."""
    try:
        path.hardlink_to(own)
    except FileExistsError:
        return own.stat().st_nlink == 2  # it got it, and the file server's answer was lost
    except OSError:  # a file system without hard links
        try:
            with path.open("xb") as file:
                file.write(own.read_bytes())
        except FileExistsError:
            return False
    return True


def _read(path: Path, *, now_s: float) -> tuple[dict[str, Any] | None, float]:
    """Who holds a claim, and how long ago it was kept fresh by the file server's clock; None where it is gone."""
    try:
        with path.open("rb") as file:  # opening makes an NFS client ask the server
            age_s = now_s - os.fstat(file.fileno()).st_mtime
            return dict.fromkeys(("pid", "host", "started")) | _parsed(file.read()), age_s
    except FileNotFoundError:
        return None, 0.0


def _parsed(content: bytes) -> dict[str, Any]:
    """What a claim says: nothing where it is not written yet, or was cut short by a loss of power."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _left_behind(holder: dict[str, Any], age_s: float) -> bool:
    here = _self()
    if all(holder.get(name) == here[name] for name in ("host", "boot", "pid_namespace")):
        return bool(_born(int(holder["pid"])) != holder["born"])
    return age_s > STALE_S


def _move_away(path: Path, holder: dict[str, Any]) -> None:
    """Remove the claim of a dead job, and of no other: between look and deed another job may have claimed anew."""
    away = path.with_name(f".{path.name[:120]}-{uuid.uuid4().hex}")
    try:
        path.rename(away)
        if _parsed(away.read_bytes()).get("key") != holder.get("key"):
            with suppress(FileExistsError):
                path.hardlink_to(away)
    except FileNotFoundError:
        pass
    finally:
        away.unlink(missing_ok=True)


def _is_of(path: Path, key: str) -> bool:
    """Whether a claim was written with a key. A number of a file says less: file servers give it again."""
    holder, _ = _read(path, now_s=0.0)
    return holder is not None and holder.get("key") == key


def _let_go(path: Path, key: str) -> None:
    with suppress(OSError):  # what stays behind is taken over
        if _is_of(path, key):
            path.unlink()


def _keep_fresh(path: Path, key: str, done: threading.Event) -> None:
    """Go on whatever the file server answers: it may be back before the claim goes stale."""
    said = False
    while not done.wait(BEAT_S):
        try:
            if _is_of(path, key):
                os.utime(path)  # without a time it is the file server's
            said = False
        except OSError as error:
            if not said:
                log.warning("%s cannot be kept fresh, which is tried again: %s", path, error)
            said = True


def _self() -> dict[str, Any]:
    """What tells this process from any other. A container may share its machine's name, but not its process numbers."""
    return {
        "key": uuid.uuid4().hex,
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "host": socket.gethostname(),
        "boot": _read_line(Path("/proc/sys/kernel/random/boot_id")),
        "pid_namespace": _namespace(),
        "started": datetime.now(UTC).isoformat("T", "seconds"),
    }


def _born(pid: int) -> str | None:
    """When a process began, in ticks since the start of the machine; None where there is none of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    text = _read_line(Path(f"/proc/{pid}/stat"))
    state, *rest = text.rpartition(")")[2].split() or ["", ""]
    if state in ("Z", "X"):  # killed, and not yet waited for: it holds nothing any more
        return None
    return rest[18] if len(rest) > 18 else "alive"  # field 22 of proc_pid_stat(5), where there is a /proc


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
