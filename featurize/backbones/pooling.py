"""From what a network puts out to one vector a patch, the way the record says: never by the model's own default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...store.errors import BackboneError
from .record import BackboneRecord

BY_NETWORK = ("model", "projected")
"""Poolings that are the network's own head."""

BY_TOKENS = ("cls", "cls+mean")


class Pooled(nn.Module):
    """A network whose embedding is pooled as its record says.

    Parameters
    ----------
    network
        With `forward_features` (tokens or a feature map) and `forward_head` (these to a vector), as timm's models.
    record
        Gives the pooling and the number of tokens before the patch tokens.
    """

    def __init__(self, network: nn.Module, record: BackboneRecord) -> None:
        super().__init__()
        self.network = network
        self.record = record

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images (b, 3, s, s): (b, dim)."""
        return self._vector(self._features(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens, or the cells of the last feature map, of normalised images: (b, t, d), row by row."""
        return self._cells(self._features(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (b, dim) and patch tokens (b, t, d) of normalised images, from one pass of the network."""
        found = self._features(x)
        return self._vector(found), self._cells(found)

    def _features(self, x: Tensor) -> Tensor:
        network: Any = self.network
        if self.record.architecture_options.get("features_only"):
            last: Tensor = network(x)[-1]  # one map for each stage asked for
            return last
        found: Tensor = network.forward_features(x)
        return found

    def _vector(self, found: Tensor) -> Tensor:
        pooling = self.record.pooling
        if pooling in BY_NETWORK:
            network: Any = self.network
            head = getattr(network, "forward_head", None)  # a cut that ends in a feature map has none
            return self._of_rank(found if head is None else head(found), 2, "one vector a patch")
        if pooling == "global average":
            return self._cells(found).mean(dim=1)  # (b, t, d) -> (b, d)
        if pooling not in BY_TOKENS:
            msg = (
                f"pooling {pooling!r} of backbone {self.record.key} is its makers' own and not built here; choose one "
                f"of {', '.join(map(repr, (*BY_TOKENS, 'global average', *BY_NETWORK)))}"
            )
            raise BackboneError(msg)
        tokens = self._of_rank(found, 3, "tokens")
        if not self.record.prefix_tokens:
            msg = (
                f"pooling {pooling!r} of backbone {self.record.key}: its record has no prefix_tokens, so no class token"
            )
            raise BackboneError(msg)
        cls = tokens[:, 0]
        if pooling == "cls":
            return cls
        return torch.cat([cls, tokens[:, self.record.prefix_tokens :].mean(dim=1)], dim=-1)  # (b, 2 d)

    def _cells(self, found: Tensor) -> Tensor:
        if found.ndim == 4:
            channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
            return found.flatten(1, 2) if channels_last else found.flatten(2).transpose(1, 2)
        return self._of_rank(found, 3, "tokens or a feature map")[:, self.record.prefix_tokens :]

    def _of_rank(self, found: Tensor, rank: int, wanted: str) -> Tensor:
        if found.ndim != rank:
            msg = (
                f"pooling {self.record.pooling!r} of backbone {self.record.key} needs {wanted}, "
                f"its network gives {tuple(found.shape)}; choose another pooling in the record"
            )
            raise BackboneError(msg)
        return found
