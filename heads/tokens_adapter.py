"""What the token heads share: the adapter in place of a pixel embedding, tokens brought onto their cells, a readout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from .engine.dropout import SeededDropout
from .tokens_onto import moved

NO_VECTORS: Mapping[int, int] = MappingProxyType({})


class Adapter(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear, LayerNorm: from stored tokens to the width of the head."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
        )


class Placed(nn.Module):
    """Tokens (b, s, d) on wanted cells (b, t, d), by fixed weights.

    Parameters
    ----------
    weights
        (t, s), rows of sum one.
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.same = weights.shape[0] == weights.shape[1] and bool(torch.equal(weights, torch.eye(len(weights))))
        self.copies = bool(((weights == 0) | (weights == 1)).all()) and weights.shape[0] >= weights.shape[1]
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor

    def forward(self, tokens: Tensor, adapter: nn.Module) -> Tensor:
        """Move and adapt tokens; cells that are only repeated are adapted once, and then moved."""
        out: Tensor = self._moved(adapter(tokens)) if self.copies else adapter(self._moved(tokens))
        return out

    def _moved(self, tokens: Tensor) -> Tensor:
        return tokens if self.same else moved(self.weights.to(tokens.dtype), tokens)


class Glance(nn.Module):
    """One hidden layer on the whole-patch vectors of all views, side by side.

    Parameters
    ----------
    dims
        Lengths of the vectors.
    hidden
        Width.
    """

    def __init__(self, dims: Sequence[int], *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop_in, self.drop_hidden = SeededDropout(dropout), SeededDropout(dropout)
        self.hidden = nn.Linear(sum(dims), hidden)

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Of vectors (b, dim) each: (b, hidden)."""
        hidden = nn.functional.gelu(self.hidden(self.drop_in(torch.cat(list(vectors), dim=1))))
        out: Tensor = self.drop_hidden(hidden)
        return out


def as_tokens(x: Tensor) -> Tensor:
    """A vector (b, d) as one token (b, 1, d); tokens as they are."""
    return x[:, None] if x.ndim == 2 else x
