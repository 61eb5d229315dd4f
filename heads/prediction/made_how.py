"""With what a prediction is computed: jobs that differ in it never share the blocks of a slide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..engine.device import device_of
from ..engine.precision import half_precision
from ..engine.saving_files import versions


def made_how(head: Any, *, search: str) -> dict[str, str | int]:
    """Device, precision and libraries: what besides run and features decides over the bits of a prediction.

    Parameters
    ----------
    head
        Fitted, with those inside it.
    search
        Name of the index in which training rows are looked up.

    Returns
    -------
    dict
        `device`, the GPU or the kind of CPU by name; `precision` of the network's products, "bf16" or "fp32"; `search`;
        `threads`; `torch`, and the `libraries` with their versions, tissuary's own among them.
    """
    # Resolved here: "auto" is another device on every machine.
    devices = sorted({str(device_of(name)) for name in _devices(head)} or {"cpu"})
    return {
        "device": ", ".join(map(_called, devices)),
        "precision": "bf16" if any(map(_is_half, devices)) else "fp32",
        "search": search,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(versions().items())),
    }


def _devices(head: Any) -> Iterator[str]:
    """Devices of the networks in a head; none of one that is no network."""
    if isinstance(name := getattr(head, "device", None), str):
        yield name
    for member in getattr(head, "members_", []):
        yield from _devices(member)


def _is_half(device: str) -> bool:
    with half_precision(torch.device(device)):
        return torch.is_autocast_enabled(torch.device(device).type)


def _called(device: str) -> str:
    found = torch.device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if found.type == "cpu" else device
