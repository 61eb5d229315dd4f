"""Between half and single precision: to the same bits as numpy, and many times faster where torch is at hand.

Numpy converts one value at a time (0.3 thousand million values a second); torch uses the processor's vectors (7).
Torch is used where it is loaded already, never loaded for this.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats


def to_half(values: Floats) -> NDArray[np.float16]:
    """Cast float32 (any shape) to float16, to nearest, ties to even; beyond 65,520 to infinity."""
    torch = _torch()
    if torch is None or not values.flags.writeable or values.dtype != np.float32 or not values.dtype.isnative:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype("<f2")
    half: NDArray[np.float16] = torch.from_numpy(values).half().numpy()
    return half


def to_single(stored: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Copy float16 or float32 into `out` of the same shape, exactly."""
    if stored.dtype != np.float16 or not stored.dtype.isnative:
        out[...] = stored
        return
    torch = _torch()
    if torch is not None and stored.flags.writeable:
        torch.from_numpy(out).copy_(torch.from_numpy(stored))
    else:
        out[...] = _singles()[stored.view(np.uint16)]


def _torch() -> Any:
    """Torch where it is loaded; none in a forked child, which would wait for threads that did not come along."""
    return None if _forked else sys.modules.get("torch")


_forked = False


def _mark_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_child)


@cache
def _singles() -> NDArray[np.float32]:
    """Every float16 as float32, (65536,), by its bits: looking up beats converting."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
