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

from ..store.cores import usable_cores
from ..store.memory_limit import UNLIMITED, memory_limit

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
    return (*_hardware(folder), *_gpu(), *_libraries(), _faiss(), *_hub())


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


def _libraries() -> Iterator[Finding]:
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
