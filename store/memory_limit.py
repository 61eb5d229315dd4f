"""How much memory this process may use, and how much of it mapped files take now."""

from __future__ import annotations

import os
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
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return UNLIMITED


def _process() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return UNLIMITED
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_RSS, resource.RLIMIT_DATA)]
    return min([one for one in limits if one != resource.RLIM_INFINITY], default=UNLIMITED)
