"""When a device runs out of memory: the same slide again, in batches of half the size."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..store.atomic import remove_resumable
from ..store.lock import slide_lock
from .embedding import OpenPass
from .job_plan import Plan

_SAID = ("out of memory", "ALLOC_FAILED", "MemoryAllocation", "DefaultCPUAllocator: ")
"""What torch, cuBLAS, cuDNN and the CPU's allocator say as plain `RuntimeError`."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in _SAID)


def plan_in_half(passes: Sequence[OpenPass], today: Plan) -> Plan | None:
    """The plan with half the batch of the passes that did not fit; None where that was one patch."""
    failed = max((one.plan.batch for one in passes), default=today.batch)
    batch = min(today.batch, failed // 2)
    return replace(today, batch=batch) if batch else None


def forget_unfinished(root: Path, slide_id: str, passes: Sequence[OpenPass]) -> None:
    """Remove the rows that the passes have so far, and give the device its memory back.

    A file has one plan from its first row to its last, and says so: rows of the former batch cannot stand beside rows
    of half of it.

    Raises
    ------
    StoreError
        If another job was quicker to take the slide.
    """
    import torch

    files = [sink.target.path for one in passes for _, takers in one.sinks for _, sinks in takers for sink in sinks]
    with slide_lock(root, slide_id):
        for path in files:
            remove_resumable(path)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
