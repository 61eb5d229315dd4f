"""BLEEP (NeurIPS 2023) on stored features: image and expression in one space, prediction by retrieval."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine.batch import Batch
from ..engine.network import NetworkShape, SeededDropout, Step
from ..engine.training import TrainingOptions
from .retrieval import OWN, RetrievalHead, RetrievalModule
from .retrieval_losses import ProjectionHead, contrast, published_contrast

START_TEMPERATURE = 0.07

PAPER = TrainingOptions(
    batch=1, at_least=256, lr=1e-3, lr_end=1e-3, weight_decay=1e-3, warmup=0.0, clip=1e9, pearson_weight=0.0,
    unit_spread=False, weighted=False,
)  # fmt: skip
"""Batches of 256 spots of all slides."""


class PublishedPair(RetrievalModule):
    """Two projections and the published contrast.

    Parameters
    ----------
    shape
        Of features and genes.
    dim
        Of the embedding.
    """

    def __init__(self, shape: NetworkShape, *, dim: int = 256) -> None:
        super().__init__()
        self.image = ProjectionHead(sum(shape.dims), dim)
        self.spot = ProjectionHead(shape.n_genes, dim)

    def embed(self, batch: Batch) -> Tensor:
        """Embed all views side by side."""
        out: Tensor = self.image(torch.cat(batch.own, dim=1))
        return out

    def keys(self, y: Tensor) -> Tensor:
        """Embed expression."""
        out: Tensor = self.spot(y)
        return out

    def step(self, batch: Batch) -> Step:
        """The contrast alone."""
        assert batch.y is not None
        loss = published_contrast(self.embed(batch), self.keys(batch.y), batch.weight > 0, log=False)
        return Step(None, loss)


class UnitPair(PublishedPair):
    """Embeddings of length one, a learnable temperature, and features dropped at the door."""

    def __init__(self, shape: NetworkShape, *, dim: int, dropout: float, soft: bool) -> None:
        super().__init__(shape, dim=dim)
        self.drop, self.soft = SeededDropout(dropout), soft
        self.log_temperature = nn.Parameter(torch.tensor([math.log(START_TEMPERATURE)]))

    def embed(self, batch: Batch) -> Tensor:
        """Embed all views side by side."""
        return functional.normalize(self.image(self.drop(torch.cat(batch.own, dim=1))), dim=1)

    def keys(self, y: Tensor) -> Tensor:
        """Embed expression."""
        return functional.normalize(self.spot(y), dim=1)

    def step(self, batch: Batch) -> Step:
        """The contrast alone."""
        assert batch.y is not None
        temperature = self.log_temperature.exp().clamp(min=0.01)
        image, spot = self.embed(batch), self.keys(batch.y)
        return Step(None, contrast(image, spot, batch.weight, temperature=temperature, soft=self.soft))


class BLEEP(RetrievalHead):
    """Contrast of image and expression, and prediction by the expression of the nearest training spots.

    Parameters
    ----------
    mode
        "default": embeddings of length one, a learnable temperature, targets that sum to one both ways, deviations from
        the slide's mean retrieved with softmax weights; k and temperature chosen on inner folds, at 20 epochs. "paper":
        as published, on frozen features: projections to 256 dimensions, T = 1 without normalisation, AdamW 1e-3 with
        decay 1e-3, batches of 256 over slides, 4 epochs, plain mean of the 50 nearest.
    dim
        Of the embedding; None is 128, and 256 in mode "paper".
    dropout
        Of features in the default mode.
    soft
        Whether spots that are alike share the contrast's target, in the default mode.
    k, temperature
        Of retrieval; None chooses on inner folds (50 and uniform weights in mode "paper").
    epochs, members, seed, device
        As in `NeuralHead`; members None is 3, and 1 in mode "paper".
    """

    blend = 1.0  # its networks have no regression to blend with

    def __init__(
        self,
        *,
        mode: str = "default",
        dim: int | None = None,
        dropout: float = 0.3,
        soft: bool = True,
        k: int | None = None,
        temperature: float | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        super().__init__(
            training=PAPER if paper else OWN,
            epochs=4 if paper and epochs is None else epochs,
            members=(1 if paper else 3) if members is None else members,
            seed=seed,
            device=device,
        )
        self.mode, self.dim, self.dropout, self.soft, self.k, self.temperature = (
            mode,
            dim,
            dropout,
            soft,
            k,
            temperature,
        )

    def build(self, shape: NetworkShape) -> RetrievalModule:
        """Make the network."""
        if self.mode == "paper":
            return PublishedPair(shape, dim=self.dim or 256)
        return UnitPair(shape, dim=self.dim or 128, dropout=self.dropout, soft=self.soft)
