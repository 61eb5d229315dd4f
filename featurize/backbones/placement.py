"""Where and in which arithmetic a network runs: its precision, its place, its memory layout, compiled or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...store.errors import BackboneError
from .record import BackboneRecord, Precision

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""The arithmetic of each precision."""

SMALLEST_COMPILED = 8
"""A compiled network sees batches of powers of two from here on: seven programs up to 512, below torch's limit of 8."""

_log = logging.getLogger(__name__)


def chosen_precision(record: BackboneRecord, device: str, *, asked: str = "auto") -> Precision:
    """Choose the arithmetic of a backbone on a device.

    Parameters
    ----------
    device
        "cpu", "cuda" or "cuda:1".
    asked
        "fp32", "fp16", "bf16", or "auto". "auto" on a GPU is the record's precision; a bf16 record on a GPU without
        bf16 runs in fp32, since fp16 has not bf16's range and would overflow unseen. "auto" on a CPU is bf16 for
        records of half precision where the CPU has bf16 instructions, else fp32: emulated half precision is slower
        than fp32. Embedded encoders run in fp32 whatever is asked: their logarithms and percentiles need it.

    Raises
    ------
    BackboneError
        If `asked` is none of these, is fp16 on a CPU, or bf16 on a GPU without it.
    """
    if asked not in ("auto", *DTYPES):
        msg = f"precision {asked!r}: choose one of auto, {', '.join(DTYPES)}"
        raise BackboneError(msg)
    wanted: Precision = record.precision if asked == "auto" else asked  # type: ignore[assignment]  # checked above
    if record.loader == "embedded" or wanted == "fp32":
        return "fp32"
    on_cpu = torch.device(device).type == "cpu"
    has_bf16 = cpu_has_bf16() if on_cpu else _gpu_has_bf16(device)
    if asked == "auto":
        if on_cpu:
            return "bf16" if has_bf16 else "fp32"
        return "fp32" if wanted == "bf16" and not has_bf16 else wanted
    if on_cpu and wanted == "fp16":
        msg = f"precision fp16 of backbone {record.key} on a CPU, which has no fp16 arithmetic: ask for bf16 or fp32"
        raise BackboneError(msg)
    if wanted == "bf16" and not has_bf16:
        if not on_cpu:
            msg = f"precision bf16 of backbone {record.key}: device {device} has no bf16; ask for fp16 or fp32"
            raise BackboneError(msg)
        _log.warning("backbone %s: this CPU has no bf16 instructions, bf16 is slower than fp32 here", record.key)
    return wanted


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX, or Arm's BF16), and torch can use it.

    A torch that cannot tell (below 2.10) counts as none, which costs time and never numbers.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.backends.mkldnn.is_available() and any(  # type: ignore[no-untyped-call]
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )


def _gpu_has_bf16(device: str) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def place(module: nn.Module, *, device: str, precision: Precision, compiled: bool = False) -> nn.Module:
    """Move a network to its device and precision, its convolutions to channels-last.

    Parameters
    ----------
    module
        With `forward` and `both`; changed in place. Embedded encoders have no weights and are not placed.
    compiled
        Compile `forward` and `both` on their first use, for batches of fixed sizes (see `SMALLEST_COMPILED`).

    Raises
    ------
    BackboneError
        If `compiled`, and this machine has nothing to compile for `device` with.
    """
    module.to(device=torch.device(device), dtype=DTYPES[precision])
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of tensors of rank 4 alone
    if compiled:
        _check_compiler(device)
        for name in ("forward", "both"):
            setattr(module, name, _padded(torch.compile(getattr(module, name), dynamic=False)))
    return module


def _check_compiler(device: str) -> None:
    """Compile a sum: whether a compiler is there and works shows only in use."""
    try:
        torch.compile(_incremented, dynamic=False)(torch.zeros(64, device=device))
    except RuntimeError as error:  # what torch's compilers raise derives from it
        msg = (
            f"torch.compile does not work for device {device} here ({type(error).__name__}): install a C++ compiler "
            "(for a GPU: triton), or leave compilation out"
        )
        raise BackboneError(msg) from error


def _incremented(x: Tensor) -> Tensor:
    return x + 1


def _padded(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Call with the batch filled up to a power of two: else every slide's last batch would be compiled anew."""

    def call(x: Tensor) -> Any:
        size = max(SMALLEST_COMPILED, 1 << (len(x) - 1).bit_length())
        if size == len(x):
            return function(x)
        filled = torch.cat([x, x[:1].expand(size - len(x), -1, -1, -1)]).contiguous(memory_format=torch.channels_last)
        found = function(filled)
        return tuple(part[: len(x)] for part in found) if isinstance(found, tuple) else found[: len(x)]

    return call
