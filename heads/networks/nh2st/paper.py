"""The network of NH2ST as its code defines it (arXiv 2506.23827, MICCAI 2025), on stored features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ....store.arrays import Bools, Floats
from ....store.files.column import FeatureColumn
from ....store.search.exact import unit_rows
from ....store.spatial.neighbourhood import Neighbourhood
from ....store.table import Table
from ...engine.attention import attend
from ...engine.batch import Batch
from ...engine.network import HeadModule, NetworkShape, SeededDropout, Step
from ...engine.training import TrainingOptions, in_full_precision

ALIKE = 3
"""Nodes of largest cosine that a node's hyperedge holds beside itself."""

BLOCK = 512
KEY = "hypergraph"


def propagation(nodes: Floats, mask: Bools, *, alike: int = ALIKE) -> NDArray[np.float32]:
    """The operator D^-1 H B^-1 H^T of hypergraphs of k nodes, (m, k, k) float32.

    Node e has a hyperedge, which holds it and the `alike` other nodes of largest cosine; H[v, e] says whether edge e
    holds node v, B counts the nodes of an edge, D the edges of a node. So a hypergraph convolution (Bai et al. 2021,
    without attention) of X with weights Theta is `P X Theta + b`.

    Parameters
    ----------
    nodes
        (m, k, dim).
    mask
        (m, k) True where there is a node; rows and columns of P are zero elsewhere, the others sum to one.
    """
    m, k, dim = nodes.shape
    unit = unit_rows(np.ascontiguousarray(nodes, dtype=np.float32).reshape(-1, dim)).reshape(m, k, dim)
    cosine = np.where(mask[:, None], unit @ unit.swapaxes(1, 2), -np.inf)  # (m, e, v)
    diagonal = np.arange(k)
    cosine[:, diagonal, diagonal] = np.inf  # the node itself comes first
    chosen = np.argsort(-cosine, axis=2, kind="stable")[..., : alike + 1]
    edge = np.zeros((m, k, k), dtype=np.float32)  # (m, e, v): H transposed
    np.put_along_axis(edge, chosen, 1.0, axis=2)
    edge *= mask[:, None] & mask[:, :, None]
    of_edge, of_node = edge.sum(2, keepdims=True), edge.sum(1)[:, :, None]  # B (m, e, 1), D (m, v, 1)
    out = (edge.swapaxes(1, 2) / np.maximum(of_node, 1)) @ (edge / np.maximum(of_edge, 1))
    return np.asarray(out, dtype=np.float32)


def propagation_column(table: Table, found: Neighbourhood) -> FeatureColumn:
    """Operators of all rows of a table, computed once and gathered as any feature: (k * k) a row.

    Parameters
    ----------
    found
        Neighbours of every row, as rows of the table.
    """
    x, k = table.features(), found.k
    flat = np.zeros((len(table), k * k), dtype=np.float32)
    for start in range(0, len(table), BLOCK):
        rows = slice(start, start + BLOCK)
        flat[rows] = propagation(x[found.index[rows]], found.mask[rows]).reshape(-1, k * k)
    parts = []
    for one in range(len(table.slide_ids)):
        here = table.slide == one
        part = np.zeros((int(table.row[here].max(initial=-1)) + 1, k * k), dtype=np.float32)
        part[table.row[here]] = flat[here]
        parts.append(part)
    return FeatureColumn(KEY, "none", tuple(parts))


@in_full_precision
def published_contrast(
    image: Tensor, genes: Tensor, *, temperature: float, multiplier: float = 0.1, group: Tensor | None = None
) -> Tensor:
    """NH2ST's loss: image to genes alone, with the logits of other spots multiplied by 0.1.

    The multiplier is what it collapses by: if all codes are one and the same, a spot's own logit is 1 / temperature and
    the others' a tenth of it, so that nothing is left to learn.

    Parameters
    ----------
    image, genes
        (b, d) codes; row i of one belongs to row i of the other.
    temperature
        By which cosines are divided.
    multiplier
        Of the logits off the diagonal.
    group
        (b,) rows are compared within a group alone; groups below zero are padding. One group where not given.
    """
    cosine = functional.normalize(image, dim=1) @ functional.normalize(genes, dim=1).T
    own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    logits = torch.where(own, cosine, multiplier * cosine) / temperature
    if group is None:
        return (torch.logsumexp(logits, dim=1) - logits.diagonal()).mean()
    real = (group >= 0).to(cosine.dtype)
    logits = logits.masked_fill(~(own | (group[:, None] == group[None])), float("-inf"))
    loss = torch.logsumexp(logits, dim=1) - logits.diagonal()
    return (loss * real).sum() / real.sum().clamp_min(1.0)


@in_full_precision
def symmetric_contrast(image: Tensor, genes: Tensor, *, temperature: Tensor, real: Tensor, negatives: Tensor) -> Tensor:
    """InfoNCE in both directions (van den Oord et al. 2018, as CLIP has it).

    Parameters
    ----------
    image, genes
        (b, d) codes; row i of one belongs to row i of the other.
    temperature
        By which cosines are divided.
    real
        (b,) rows that count; the others are neither positives nor negatives.
    negatives
        (b, b) True where two rows may be told apart.
    """
    logits = functional.normalize(image, dim=1) @ functional.normalize(genes, dim=1).T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(~(own | (negatives & real[None] & real[:, None])), float("-inf"))
    both = torch.logsumexp(logits, dim=1) + torch.logsumexp(logits, dim=0) - 2.0 * logits.diagonal()
    count = real.to(logits.dtype)
    return 0.5 * (both * count).sum() / count.sum().clamp_min(1.0)


def far_apart(place_um: Tensor, same_slide: Tensor, *, within_um: float) -> Tensor:
    """(b, b) True for rows of different slides, or farther from each other than `within_um`.

    Parameters
    ----------
    place_um
        (b, 2) positions on the slides.
    same_slide
        (b, b).
    """
    away = (place_um[:, None] - place_um[None]).square().sum(-1)
    return ~same_slide | (away > within_um**2)


DIM, HIDDEN, ATTENTION_HEADS, DROPOUT = 512, 1024, 8, 0.5
TEMPERATURE, GROUP = 0.05, 8
"""Of the contrast; spots that are told apart from each other, the published batch of one GPU."""

OF_SPOT, OF_NEIGHBOURS = 1.0, 0.5
"""Weights of the two contrasts."""


@dataclass(frozen=True)
class StepwiseTraining(TrainingOptions):
    """A rate that falls by a factor at every quarter of the training, in place of warm-up and cosine.

    Attributes
    ----------
    decay
        The factor: 0.9 at every 50 of the published 200 epochs.
    """

    decay: float = 0.9

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step."""
        return self.lr * self.decay ** min(4 * step // max(1, steps), 3)


PUBLISHED = StepwiseTraining(
    batch=GROUP,
    at_least=48,
    lr=5e-4,
    weight_decay=0.0,
    pearson_weight=0.0,
    clip=1e9,
    unit_spread=False,
    weighted=False,
)
"""Adam at 5e-4 on six groups of eight spots, which stand for six GPUs; squared error on targets as they are."""


class HypergraphConvolution(nn.Module):
    """`P X Theta + b`, every row projected once before it is gathered.

    Parameters
    ----------
    dim_in, dim_out
        Widths.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.theta = nn.Linear(dim_in, dim_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(dim_out))

    def forward(self, x: Tensor, operator: Tensor, *, position: Tensor | None = None) -> Tensor:
        """(b, k, dim_out) of operators (b, k, k) and nodes x (b, k, dim_in), or (u, dim_in) at `position` (b, k)."""
        projected = self.theta(x)
        out: Tensor = operator @ (projected if position is None else projected[position]) + self.bias
        return out


class HypergraphNetwork(nn.Module):
    """Two hypergraph convolutions with ReLU, then the mean over nodes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = HypergraphConvolution(dim, HIDDEN), HypergraphConvolution(HIDDEN, DIM)

    def forward(self, x: Tensor, operator: Tensor, *, position: Tensor, mask: Tensor) -> Tensor:
        """One vector (b, 512) of the nodes at `position` (b, k) among x (u, dim)."""
        hidden = torch.relu(self.first(x, operator, position=position))
        nodes = torch.relu(self.second(hidden, operator)) * mask[..., None]
        return nodes.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


class Fusion(nn.Module):
    """The block of cross-attention that all four calls share.

    Key and value are one vector, so that the softmax over them is 1 whatever query and key are: `to_query` and `to_key`
    get no gradient, and what is called attention adds a linear function of the other side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_forward, self.norm_out = nn.LayerNorm(DIM), nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.to_query, self.to_key, self.to_value = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.out, self.drop_out = nn.Linear(DIM, DIM), SeededDropout(DROPOUT)
        self.forward_in, self.forward_out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.drop_hidden, self.drop_forward = SeededDropout(DROPOUT), SeededDropout(DROPOUT)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Refine `own` (b, 512) by `other` (b, 512)."""
        query, keys = self.norm(own)[:, None], self.norm(other)[:, None]  # one norm for both sides, as published
        got = attend(self.to_query(query), self.to_key(keys), self.to_value(keys), heads=ATTENTION_HEADS)[:, 0]
        own = own + self.drop_out(self.out(got))
        hidden = self.drop_hidden(nn.functional.gelu(self.forward_in(self.norm_forward(own))))
        out: Tensor = self.norm_out(own + self.drop_forward(self.forward_out(hidden)))
        return out


class PublishedNetwork(HeadModule):
    """Prediction from the target patch alone; neighbours and genes take part in two losses of training.

    Parameters
    ----------
    shape
        Of features and genes; the last key is the operator of `nh2st_hypergraph`.
    contrast
        Factor of both contrasts: 1 as published.
    """

    def __init__(self, shape: NetworkShape, *, contrast: float) -> None:
        super().__init__()
        dim = sum(shape.dims[:-1])
        self.contrast = contrast
        self.adapter = nn.Linear(dim, DIM)
        self.hidden, self.genes = nn.Linear(DIM, DIM // 2), nn.Linear(DIM // 2, shape.n_genes)
        self.gene_encoder = nn.Sequential(nn.Linear(shape.n_genes, DIM), nn.Linear(DIM, DIM))
        self.image_graph, self.gene_graph = HypergraphNetwork(dim), HypergraphNetwork(DIM)
        self.fusion = Fusion()

    @property
    def n_inference(self) -> int:
        """Parameters that a prediction uses."""
        return sum(p.numel() for part in (self.adapter, self.hidden, self.genes) for p in part.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        return self._decode(self.adapter(torch.cat(batch.own[:-1], dim=1)))

    def step(self, batch: Batch) -> Step:
        """Prediction, and the contrast of spots and of neighbourhoods."""
        spot = self.adapter(torch.cat(batch.own[:-1], dim=1))  # p
        prediction = self._decode(spot)
        if self.contrast == 0:
            return Step(prediction)
        assert batch.expression is not None and batch.space is not None
        near, k = batch.space, batch.space.position.shape[1]
        where = {"position": near.position, "mask": near.mask}
        operator = batch.x[-1][batch.rows].view(-1, k, k)
        code = self.gene_encoder(batch.expression)  # (u, 512)
        genes = code[batch.rows]  # g
        around = self.image_graph(torch.cat(batch.x[:-1], dim=1), operator, **where)  # n
        around_genes = self.gene_graph(code, operator, **where)  # m
        spot_z = self.fusion(spot, genes)
        genes_z = self.fusion(genes, spot_z)
        around_z = self.fusion(around, around_genes)
        around_genes_z = self.fusion(around_genes, around_z)
        group = _groups(batch.weight)
        of_spot = published_contrast(spot_z, genes_z, temperature=TEMPERATURE, group=group)
        of_around = published_contrast(around_z, around_genes_z, temperature=TEMPERATURE, group=group)
        return Step(prediction, self.contrast * (OF_SPOT * of_spot + OF_NEIGHBOURS * of_around))

    def _decode(self, spot: Tensor) -> Tensor:
        out: Tensor = self.genes(self.hidden(spot))
        return out


def _groups(weight: Tensor) -> Tensor:
    """Group (b,) of about eight of each row, spread over the slides of a step; -1 for padding."""
    real = weight > 0
    count = (real.sum() + GROUP - 1) // GROUP
    place = torch.cumsum(real.to(torch.int64), dim=0) - 1
    return torch.where(real, place % count.clamp_min(1), -1)
