"""Dropout whose masks follow from a seed, a step and a place, the same on every device and in stacked training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STREAMS = 7919
"""Between the seeds of two dropout layers of one network."""


class SeededDropout(nn.Module):
    """Dropout by a hash of (seed, step, row, column) in place of the global generator.

    A network that is trained alone and one that is trained stacked with others draw the same masks, and so do a CPU
    and a GPU. Rows and columns are hashed by two rounds of multiply and xor-shift (the finaliser of MurmurHash3), on
    int32 that wraps, and a pair of them by the product of both with an odd number.

    Parameters
    ----------
    p
        Share of values that are zeroed; the others are scaled by 1 / (1 - p).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("key", torch.zeros((), dtype=torch.int32), persistent=False)
        self.key: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Zero some values of x (rows, ...) in training."""
        if not self.training or self.p == 0:
            return x
        rows = torch.arange(x.shape[0], dtype=torch.int32, device=x.device) * -1640531527 + self.key
        columns = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device) * -2048144777
        # Both sides are mixed while they are short; one product more makes the pairs of them differ.
        h = (_mixed(rows)[:, None] ^ _mixed(columns)[None]) * -1028477387  # (rows, columns)
        keep = h >= round(self.p * 2**32) - 2**31
        return x * (keep.to(x.dtype) * (1.0 / (1.0 - self.p))).view(x.shape)

    def extra_repr(self) -> str:
        """As torch's own."""
        return f"p={self.p}"


def _mixed(h: Tensor) -> Tensor:
    h = (h ^ ((h >> 16) & 0xFFFF)) * -2048144789
    h = (h ^ ((h >> 13) & 0x7FFFF)) * -1028477387
    return h ^ ((h >> 16) & 0xFFFF)


def dropout_keys(module: nn.Module, *, seed: int) -> dict[str, int]:
    """The first key of every seeded dropout of a network, by the name of its buffer."""
    names = [name for name, part in module.named_modules() if isinstance(part, SeededDropout)]
    start = (seed * 0x9E3779B1) & 0x7FFFFFFF
    return {f"{name}.key".lstrip("."): (start + (i + 1) * STREAMS * 1009) & 0x7FFFFFFF for i, name in enumerate(names)}


def key_at(first: int, step: int) -> int:
    """The key of a step, as a signed 32-bit number."""
    return ((first + step * 0x85EBCA6B) & 0xFFFFFFFF) - 2**31
