"""Losses in float32 at least, whatever the network runs in: sums over many rows lose too much in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

HALF = (torch.bfloat16, torch.float16)

P = ParamSpec("P")


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 for the matrix products where a GPU has it; elsewhere everything stays float32."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=able)


def in_full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Have a loss computed outside autocast, halves among its arguments widened to float32."""

    @wraps(loss)
    def outside(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        given, named = tree_map(widened, (args, kwargs))
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return loss(*given, **named)

    return outside


def widened(value: Any) -> Any:
    """Halves as float32, and all else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value
