"""When a device runs out of memory: the same slide again, in batches of half the size."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..store.atomic import remove_resumable
from ..store.lock import slide_lock
from .claim import claim
from .embedding import OpenPass, Sink
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


def sinks_of(passes: Sequence[OpenPass]) -> list[Sink]:
    """All files that the passes write."""
    return [sink for one in passes for _, takers in one.sinks for _, sinks in takers for sink in sinks]


def forget_unfinished(root: Path, slide_id: str, passes: Sequence[OpenPass]) -> None:
    """Remove the rows that the passes have so far, and give the device its memory back.

    A file has one plan from its first row to its last, and says so: rows of the former batch cannot stand beside rows
    of half of it.

    Raises
    ------
    SlideBusyError
        If another job was quicker to take the slide; what it has begun is left alone.
    StoreError
        If the slide is locked, or the store cannot be written.
    """
    import torch

    with claim(root, slide_id), slide_lock(root, slide_id):  # both were let go of with the pass that failed
        for sink in sinks_of(passes):
            remove_resumable(sink.target.path)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
