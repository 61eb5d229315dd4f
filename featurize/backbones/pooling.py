"""From what a network puts out to one vector a patch, the way the record says: never by the model's own default."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...store.errors import BackboneError
from .record import BackboneRecord


class Pooled(nn.Module):
    """A network whose embedding is pooled as its record says.

    Parameters
    ----------
    network
        A timm model.
    record
        Gives the pooling and the number of tokens before the patch tokens.
    """

    def __init__(self, network: nn.Module, record: BackboneRecord) -> None:
        super().__init__()
        self.network = network
        self.record = record

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images (b, 3, s, s): (b, dim)."""
        pooling = self.record.pooling
        if pooling == "model":
            return self._of_rank(self.network(x), 2, "one vector a patch")
        if pooling == "global average":
            return self.tokens(x).mean(dim=1)  # (b, t, d) -> (b, d)
        found = self._of_rank(self._features(x), 3, "tokens")
        if not self.record.prefix_tokens:
            msg = (
                f"pooling {pooling!r} of backbone {self.record.key}: its record has no prefix_tokens, so no class token"
            )
            raise BackboneError(msg)
        cls = found[:, 0]
        if pooling == "cls":
            return cls
        return torch.cat([cls, found[:, self.record.prefix_tokens :].mean(dim=1)], dim=-1)  # (b, 2 d)

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens, or the cells of the last feature map, of normalised images: (b, t, d), row by row."""
        found = self._features(x)
        if found.ndim == 4:
            channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
            return found.flatten(1, 2) if channels_last else found.flatten(2).transpose(1, 2)
        return self._of_rank(found, 3, "tokens or a feature map")[:, self.record.prefix_tokens :]

    def _features(self, x: Tensor) -> Tensor:
        network: Any = self.network
        if self.record.architecture_options.get("features_only"):
            last: Tensor = network(x)[-1]  # one map for each stage asked for
            return last
        found: Tensor = network.forward_features(x)
        return found

    def _of_rank(self, found: Tensor, rank: int, wanted: str) -> Tensor:
        if found.ndim != rank:
            msg = (
                f"pooling {self.record.pooling!r} of backbone {self.record.key} needs {wanted}, "
                f"its network gives {tuple(found.shape)}; choose another pooling in the record"
            )
            raise BackboneError(msg)
        return found
