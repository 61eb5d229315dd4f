"""Where a network computes."""

from __future__ import annotations

import ctypes
import os

import torch

from ...store.errors import HeadError


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises
    ------
    HeadError
        If there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used here; choose cpu, cuda or auto"
        raise HeadError(msg) from error


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt` (malloc.h)."""

KEPT_BYTES = 256 * 2**20
LARGEST_BYTES = 32 * 2**20

OWN_WORDS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory at the top of its heap, up to 256 MiB, for the whole process.

    By default it may hand back what is free there beyond twice the largest array that was freed so far; then every step
    on large batches asks for it anew, and the system clears it page by page. The price is memory that stays with the
    process, and arrays below 32 MiB that lie on the heap from the start, as they do after a while by default: so this
    is for processes that train and end, and for whoever owns them, not for a library to call.

    Returns
    -------
    bool
        False where there is no glibc, or the user has set its thresholds in the environment.
    """
    if any(word in os.environ for word in OWN_WORDS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(MMAP_THRESHOLD, LARGEST_BYTES))
