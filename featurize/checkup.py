"""What a plan lacks on this machine: a backbone's libraries, weights, access, memory and disk; and the line to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..store.errors import BackboneError
from ..store.memory_limit import memory_limit
from .backbones.availability import is_pinned, missing, source
from .backbones.hub import HEAD, WEIGHT_FILES
from .backbones.record import BackboneRecord
from .machine import GIB, Finding, State, free_bytes

WORKING_SHARE = 0.5
"""Of the memory that weights may take: activations, batches and the readers have the rest."""

CPU_LIMIT_M = 100.0
"""Million parameters beyond which a CPU needs a day for some ten thousand patches (ViT-B has 86: 2.5 patches/s)."""


def checkup(
    record: BackboneRecord, *, store: Path, patches: int, views: int, weights: Path | None = None
) -> tuple[Finding, ...]:
    """Look at what embedding with one backbone would need.

    Parameters
    ----------
    patches
        How many there are, over all slides.
    views
        Views of each.
    weights
        A local file that is to be loaded.
    """
    return (
        _libraries(record),
        _weights(record, weights),
        *_memory(record),
        _disk(record, store, patches=patches, views=views),
        *_device(record),
    )


def line_to_run(record: BackboneRecord, *, store: Path, given: str, weights: Path | None) -> str:
    """The command that embeds with it."""
    local = f" --weights {record.key}={weights}" if weights is not None else ""
    return f"tissuary featurize SOURCE --store {store} --backbone {given}{local}"


def _libraries(record: BackboneRecord) -> Finding:
    lacking = missing(record)
    if lacking is None:
        return Finding("libraries", "ok", f"{record.loader}: all there")
    if record.loader == "remote":
        return Finding("libraries", "missing", "its code is in neither timm nor transformers", f"it needs {lacking}")
    return Finding("libraries", "missing", f"{record.loader} is not complete", lacking)


def _weights(record: BackboneRecord, weights: Path | None) -> Finding:
    if record.loader == "embedded":
        return Finding("weights", "ok", "none needed")
    if weights is not None:
        there = weights.is_file()
        return Finding("weights", "ok" if there else "missing", f"{weights}", "" if there else "there is no such file")
    if record.hub_id is None:
        return Finding("weights", "ok" if record.weights else "missing", source(record), f"--weights {record.key}=PATH")
    cached = _cached(record)
    if cached is not None:
        return Finding("weights", "ok", f"in the cache: {cached}")
    pin = "" if is_pinned(record) else "; no revision is pinned, so the newest would be taken"
    page = f"https://huggingface.co/{record.hub_id}"
    if record.gated:
        from huggingface_hub import get_token

        mend = f"ask for access on {page}" + ("" if get_token() else ", then: hf auth login")
        return Finding("weights", "missing", f"not in the cache, and gated ({record.licence}){pin}", mend)
    return Finding("weights", "note", f"not in the cache: downloaded from {page} at the first run{pin}")


def _cached(record: BackboneRecord) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    assert record.hub_id is not None
    for name in (record.hub_file,) if record.hub_file else WEIGHT_FILES:
        found = try_to_load_from_cache(record.hub_id, name, revision=record.revision or HEAD)
        if isinstance(found, str):
            return Path(found)
    return None


def _memory(record: BackboneRecord) -> Iterator[Finding]:
    if record.parameters_m is None:
        return
    needed, limit = record.parameters_m * 1e6 * 4, memory_limit()
    enough = needed <= WORKING_SHARE * limit
    told = f"{record.parameters_m:g} M parameters, {needed / GIB:.1f} GiB in float32, of {limit / GIB:.1f} GiB"
    yield Finding("memory", "ok" if enough else "missing", told, "" if enough else "a machine with more memory")


def _disk(record: BackboneRecord, store: Path, *, patches: int, views: int) -> Finding:
    width = 4 if record.precision == "fp32" and record.loader == "embedded" else 2
    needed, free = patches * views * record.dim * width, free_bytes(store)
    enough = needed < 0.9 * free
    told = f"{needed / GIB:.2f} GiB for {patches} patches x {views} views x {record.dim}, of {free / GIB:.1f} GiB free"
    state: State = "ok" if enough else "missing"
    return Finding("disk", state, told, "" if enough else "another folder, or fewer patches or views")


def _device(record: BackboneRecord) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("device", "ok", "a GPU is used")
    elif record.parameters_m is not None and record.parameters_m > CPU_LIMIT_M:
        told = f"{record.parameters_m:g} M parameters on a CPU: some ten thousand patches take days"
        yield Finding("device", "note", told, "a machine with a GPU, or a smaller backbone")
    else:
        yield Finding("device", "ok", "a CPU will do")


def checked_positive(name: str, value: int) -> int:
    """A count that makes sense.

    Raises
    ------
    BackboneError
        If it is not positive.
    """
    if value < 1:
        msg = f"{name} = {value}: give a positive number"
        raise BackboneError(msg)
    return value
