"""A multilayer perceptron: the plainest network on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.batch import Batch
from ..engine.head import NeuralHead
from ..engine.network import HeadModule, NetworkShape, SeededDropout
from ..engine.training import TrainingOptions


class Perceptron(HeadModule):
    """Two layers with dropout, on all views side by side.

    Parameters
    ----------
    shape
        Of features and genes.
    hidden
        Width of the hidden layer.
    dropout
        Of features and of hidden units.
    """

    def __init__(self, shape: NetworkShape, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop_in, self.drop_hidden = SeededDropout(dropout), SeededDropout(dropout)
        self.hidden = nn.Linear(sum(shape.dims), hidden)
        self.genes = nn.Linear(hidden, shape.n_genes)

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        x = self.drop_in(torch.cat(batch.own, dim=1))
        hidden = nn.functional.gelu(self.hidden(x))
        out: Tensor = self.genes(self.drop_hidden(hidden))
        return out


class MLP(NeuralHead):
    """Two layers with dropout on all views side by side, trained as all neural heads are.

    What a network gains over `ridge` here is the non-linearity alone: no attention, no neighbours, no prototypes. Cost:
    one training for each of three numbers of epochs on at most three inner folds, then one a member; 1,500 spots x
    1,000 features some twenty seconds on one core.

    Parameters
    ----------
    hidden
        Width of the hidden layer.
    dropout
        Of features and of hidden units.
    weight_decay
        Of AdamW.
    anchor, epochs, members, seed, device
        As in `NeuralHead`.
    """

    def __init__(
        self,
        *,
        hidden: int = 256,
        dropout: float = 0.3,
        weight_decay: float = 0.05,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int = 3,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        training = TrainingOptions(weight_decay=weight_decay)
        super().__init__(anchor=anchor, training=training, epochs=epochs, members=members, seed=seed, device=device)
        self.hidden, self.dropout, self.weight_decay = hidden, dropout, weight_decay

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        return Perceptron(shape, hidden=self.hidden, dropout=self.dropout)
