"""How much memory this process may use, and how much of it mapped files take now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNLIMITED = 1 << 62
"""What a limit is taken for where there is none."""


def memory_limit() -> int:
    """Bytes: the machine's memory, or less where a control group or `ulimit -m` or `-d` says so."""
    return min(_physical(), _control_group(), _process())


def resident_file_bytes() -> int:
    """Bytes of mapped files that are in memory on behalf of this process; 0 where the system does not say."""
    try:
        shared = Path("/proc/self/statm").read_text().split()[2]
    except (OSError, IndexError):
        return 0
    return int(shared) * os.sysconf("SC_PAGE_SIZE")


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNLIMITED


def _control_group() -> int:
    """The least limit of this process's control group and of those around it, of either version."""
    limits = []
    for root, group in _groups():
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
                try:
                    limits.append(int((place / name).read_text()))
                except (OSError, ValueError):  # no such file here, or "max"
                    continue
    return min(limits, default=UNLIMITED)


def _groups() -> list[tuple[Path, str]]:
    """Where limits of memory stand, and this process's group there; the root itself in a container."""
    mounts = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
    found = [(mount, "") for mount in mounts]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for number, controllers, group in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if number == "0":
            found.append((mounts[0], group))
        elif "memory" in controllers.split(","):
            found.append((mounts[1], group))
    return found


def _process() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return UNLIMITED
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_RSS, resource.RLIMIT_DATA)]
    return min([one for one in limits if one != resource.RLIM_INFINITY], default=UNLIMITED)


def usable_cores() -> int:
    """Cores that the scheduler lets this process run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not hear Ctrl-C, which a terminal sends to all; whoever started them ends them."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set it
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)
