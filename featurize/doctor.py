"""What this machine has: processors, memory, GPU, libraries, the model hub. Each finding with its mend."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..store.errors import BackboneError
from ..store.limits import UNLIMITED, memory_limit, usable_cores
from .backbones.hub import HEAD, WEIGHT_FILES
from .backbones.record import BackboneRecord
from .backbones.weights import is_pinned, missing, source

GIB = 1 << 30

State = Literal["ok", "note", "missing"]

LIBRARIES = {
    "torch": ("encoders and neural heads", "pip install torch"),
    "timm": ("most published encoders", "pip install timm"),
    "transformers": ("encoders that come through transformers", 'pip install "tissuary[transformers]"'),
    "openslide": ("scanner formats", "pip install openslide-python openslide-bin"),
    "tifffile": ("TIFF slides", "pip install tifffile"),
    "imagecodecs": ("JPEG and JPEG 2000 tiles", "pip install imagecodecs"),
    "anndata": ("counts", "pip install anndata"),
    "polars": ("the catalogue", "pip install polars"),
    "safetensors": ("weights and saved heads", "pip install safetensors"),
    "spatialdata": ("SpatialData stores", 'pip install "tissuary[spatialdata]"'),
    "ray": ("several machines", 'pip install "tissuary[ray]"'),
    "xformers": ("a second attention backend, on NVIDIA GPUs", "pip install xformers"),
}
"""Module -> what needs it, and how to get it."""

DISTRIBUTIONS = {"openslide": "openslide-python"}
"""Module to distribution where their names differ."""

OPTIONAL = {"transformers", "spatialdata", "ray", "xformers"}
"""Modules without which everything else still runs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    state
        "ok", "note" (something that is optional or worth knowing), or "missing".
    mend
        What to do; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def machine(folder: Path) -> tuple[Finding, ...]:
    """Look at this machine; `folder` is where a store would lie."""
    return (*_hardware(folder), *_gpu(), *_installed(), _faiss(), *_hub())


def _hardware(folder: Path) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("processors", "ok", f"{usable_cores()}")
    memory = memory_limit()
    told = "no limit known" if memory >= UNLIMITED else f"{memory / GIB:.1f} GiB"
    small = memory < 4 * GIB
    yield Finding("memory", "note" if small else "ok", told, "large encoders need more" if small else "")
    yield Finding("disk", "ok", f"{free_bytes(folder) / GIB:.1f} GiB free for {folder}")


def free_bytes(folder: Path) -> int:
    """Free bytes where a folder is, or would be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gpu() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        mend = "check the driver with nvidia-smi" if built else "install a CUDA build of torch where there is a GPU"
        yield Finding("GPU", "note", f"torch {torch.__version__} sees none ({built or 'CPU build'})", mend)
        return
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding("GPU", "ok", f"cuda:{i} {about.name}, {about.total_memory / GIB:.0f} GiB, {half}")


def _installed() -> Iterator[Finding]:
    for module, (purpose, mend) in LIBRARIES.items():
        if find_spec(module) is None:
            state: State = "note" if module in OPTIONAL else "missing"
            yield Finding(module, state, f"not installed: {purpose}", mend)
        else:
            yield Finding(module, "ok", version(DISTRIBUTIONS.get(module, module)))


def _faiss() -> Finding:
    """Which FAISS build lies here: they ship one and the same module and exclude one another."""
    builds = sorted(
        {name for found in distributions() if (name := str(found.metadata["Name"])).lower().startswith("faiss-")}
    )
    if find_spec("faiss") is None:
        return Finding("faiss", "note", "not installed: search is exact and slower", 'pip install "tissuary[cpu]"')
    if len(builds) > 1:
        return Finding("faiss", "missing", " and ".join(builds), f"pip uninstall {' '.join(builds)}, then install one")
    return Finding("faiss", "ok", ", ".join(f"{name} {version(name)}" for name in builds) or "built from source")


def _hub() -> Iterator[Finding]:
    try:
        version("huggingface_hub")
    except PackageNotFoundError:
        yield Finding("model hub", "note", "huggingface_hub is not installed", "pip install huggingface_hub")
        return
    from huggingface_hub import constants, get_token

    yield Finding("hub cache", "ok", str(constants.HF_HUB_CACHE))
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub access", "note", "HF_HUB_OFFLINE is set: nothing is downloaded", "unset HF_HUB_OFFLINE")
    elif get_token():
        yield Finding("hub access", "ok", "a token is stored")
    else:
        yield Finding("hub access", "note", "no token: gated models cannot be downloaded", "hf auth login")


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
