"""What the engine asks of a network, and the layers that networks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import attend
from .batch import Batch

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


@dataclass(frozen=True)
class NetworkShape:
    """What a network is built for.

    Attributes
    ----------
    keys
        Feature keys.
    rows
        Shape of one row of each key: (dim,) or (tokens, dim).
    n_genes
        Length of the prediction.
    """

    keys: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    n_genes: int

    @property
    def dims(self) -> tuple[int, ...]:
        """Length of a feature vector of each key."""
        return tuple(row[-1] for row in self.rows)


class Step(NamedTuple):
    """What a network makes of a training batch.

    Attributes
    ----------
    prediction
        (b, n_genes), on which the engine takes the regression loss; None where the head has none.
    extra
        Loss of the head's own, added as it is; None where it has none.
    """

    prediction: Tensor | None
    extra: Tensor | None = None


class HeadModule(nn.Module):
    """A network: `forward` predicts from a batch; `step` may add losses of its own.

    The layer named `genes`, a `Linear`, is the last one: the engine starts it at zero where the head learns the
    residual of an anchor.
    """

    genes: nn.Linear

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes); must not look at `batch.y`."""
        raise NotImplementedError

    def step(self, batch: Batch) -> Step:
        """Prediction and losses of a training batch."""
        return Step(self(batch))


class FeedForward(nn.Sequential):
    """LayerNorm, Linear, GELU, dropout, Linear, dropout."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            SeededDropout(dropout),
            nn.Linear(hidden, dim),
            SeededDropout(dropout),
        )


class CrossAttention(nn.Module):
    """Attention of queries over keys, both normed first; no residual.

    Parameters
    ----------
    dim
        Width of queries and keys.
    heads
        Number of heads; must divide `dim`.
    """

    def __init__(self, dim: int, *, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_keys = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, keys: Tensor, *, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend: query (b, q, d) over keys (b, m, d), masked (b, m), with a bias (b, heads, q, m); (b, q, d)."""
        k, v = self.to_keys(self.norm_keys(keys)).chunk(2, dim=-1)
        q = self.to_query(self.norm_query(query))
        out: Tensor = self.out(attend(q, k, v, heads=self.heads, mask=mask, bias=bias))
        return out if mask is None else out * mask.any(-1)[:, None, None].to(out.dtype)

    def shared(self, query: Tensor, keys: Tensor) -> Tensor:
        """Attend: query (b, d) over keys (m, d) that all rows share; (b, d)."""
        return self.forward(query[None], keys[None])[0]


def start_at_zero(module: HeadModule) -> None:
    """Have a network predict zeros until it has learnt something."""
    with torch.no_grad():
        module.genes.weight.zero_()
        if module.genes.bias is not None:
            module.genes.bias.zero_()
