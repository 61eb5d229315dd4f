"""CMRCNet's two networks on stored features: as published, and the project's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine.attention import attend
from ..engine.batch import Batch
from ..engine.network import NetworkShape, SeededDropout, Step
from .retrieval import RetrievalModule
from .retrieval_losses import ProjectionHead, contrast, log_squared_error, published_contrast

GENE_TOKENS = 8
SATURATION = -1.7580993408473766
"""What a dropped unit becomes: minus scale times alpha of SELU (Klambauer et al. 2017)."""


class SeededAlphaDropout(nn.Module):
    """Alpha dropout (Klambauer et al. 2017): dropped units saturate, and mean and variance of SELU units are kept.

    Parameters
    ----------
    p
        Share of units that are dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.draw = p, SeededDropout(p)
        self.scale = ((1.0 - p) * (1.0 + p * SATURATION**2)) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        """Drop some units of x (rows, ...) in training."""
        if not self.training or self.p == 0:
            return x
        keep = self.draw(torch.ones_like(x)) * (1.0 - self.p)  # 0 or 1
        out: Tensor = self.scale * (x * keep + SATURATION * (1.0 - keep) - SATURATION * self.p)
        return out


class GeneTokens(nn.Sequential):
    """Expression (b, g) to eight tokens (b, 8, dim): Linear, ELU, alpha dropout."""

    def __init__(self, n_genes: int, dim: int, *, dropout: float = 0.25) -> None:
        super().__init__(
            nn.Linear(n_genes, GENE_TOKENS * dim),
            nn.ELU(),
            SeededAlphaDropout(dropout),
            nn.Unflatten(1, (GENE_TOKENS, dim)),
        )


class Attention(nn.Module):
    """Multi-head attention with biases, as torch's own layer: in- and out-projections of queries, keys and values."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Attend from x (b, t, dim) to y (b, s, dim)."""
        out: Tensor = self.out(attend(self.query(x), self.key(y), self.value(y), heads=self.heads))
        return out


class GeneAttention(nn.Module):
    """CMRCNet's cross-attention: rectified queries and keys, and values that are made of them.

    Q = drop(relu(Wq x)), K = drop(relu(Wk y)); Wv1 Q + softmax(Q K^T / sqrt(dim / heads)) Wv2 K.
    """

    def __init__(self, dim: int, *, heads: int, dropout: float = 0.25) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.own, self.theirs = (nn.Linear(dim, dim) for _ in range(4))
        self.drop_query, self.drop_key = SeededDropout(dropout), SeededDropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Image tokens x (b, t, dim) to gene tokens y (b, s, dim)."""
        q = self.drop_query(functional.relu(self.query(x)))
        k = self.drop_key(functional.relu(self.key(y)))
        out: Tensor = self.own(q) + attend(q, k, self.theirs(k), heads=self.heads)
        return out


class FusionBlock(nn.Module):
    """Self-attention and a multilayer perceptron on image tokens, then attention to gene tokens; all residual.

    Parameters
    ----------
    dim, heads
        Of the tokens; `heads` must divide `dim`.
    ratio
        Hidden units of the perceptron over `dim`.
    """

    def __init__(self, dim: int, *, heads: int = 8, ratio: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attention, self.drop = Attention(dim, heads=heads), SeededDropout(dropout)
        self.perceptron = nn.Sequential(
            nn.Linear(dim, ratio * dim),
            nn.GELU(),
            SeededDropout(dropout),
            nn.Linear(ratio * dim, dim),
            SeededDropout(dropout),
        )
        self.genes = GeneAttention(dim, heads=heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Image tokens x (b, t, dim) and gene tokens y (b, s, dim) to image tokens."""
        normed = self.norm1(x)
        x = x + self.drop(self.self_attention(normed, normed))
        x = x + self.perceptron(self.norm2(x))
        out: Tensor = x + self.genes(x, y)
        return out


class Reconstruction(nn.Module):
    """From masked image tokens and gene tokens to the image embedding: the mean of what the fusion makes of tokens.

    Parameters
    ----------
    width, n_genes
        Of an image token and of expression.
    dim
        Of all that follows, and of the embedding.
    hidden
        Of one gene token; the published net has 8 x 256 whatever the genes.
    shared
        Whether the two fusion blocks are one, run twice, as in the published code; its dropout then drops the same
        units in both passes.
    whole
        Whether whole tokens are masked, and replaced by a learnt one; else single values are set to 0.
    """

    def __init__(
        self, width: int, n_genes: int, *, dim: int, heads: tuple[int, int], shared: bool, whole: bool, ratio: int = 4
    ) -> None:
        super().__init__()
        self.gene_tokens, self.latent = GeneTokens(n_genes, dim), nn.Linear(width, dim)
        self.first = Attention(dim, heads=heads[0])
        self.blocks = nn.ModuleList(FusionBlock(dim, heads=heads[1], ratio=ratio) for _ in range(1 if shared else 2))
        self.passes = 2 if shared else 1
        self.draw = SeededDropout(0.5)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim)) if whole else None

    def masked(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t, dim), half of them (or of their values) masked in training."""
        if not self.training:
            return tokens
        if self.mask_token is None:
            out: Tensor = 0.5 * self.draw(tokens)  # undoes the rescaling of dropout
            return out
        keep: Tensor = 0.5 * self.draw(torch.ones_like(tokens[..., :1]))
        return keep * tokens + (1.0 - keep) * self.mask_token

    def forward(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Image tokens (b, t, width) and expression (b, g) to (b, dim)."""
        genes = self.gene_tokens(y)
        x = self.first(self.masked(self.latent(tokens)), genes)
        for _ in range(self.passes):
            for block in self.blocks:
                x = block(x, genes)
        out: Tensor = x.mean(1)
        return out


START_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Terms:
    """What the loss is made of.

    Attributes
    ----------
    contrast, reconstruction
        Weights; 0 leaves a term out, and with it what only that term trains.
    attached
        Whether the image embedding, which is what is reconstructed, learns from the reconstruction.
    soft
        Whether spots that are alike share the contrast's target.
    """

    contrast: float = 1.0
    reconstruction: float = 1.0
    attached: bool = True
    soft: bool = True


class PublishedCMRC(RetrievalModule):
    """The published heads around stored tokens (reference: the public code of arXiv 2506.08854).

    The image embedding is a projection of the mean token. Nothing is regressed: the network has no gene output.
    Projections come first, so that their initial weights and their dropout are the same with and without the
    reconstruction.

    Parameters
    ----------
    shape
        Of views of one width, or of a token grid and perhaps a pooled vector of its width.
    """

    def __init__(self, shape: NetworkShape, *, terms: Terms, dim: int = 256) -> None:
        super().__init__()
        self.terms, width = terms, shape.dims[0]
        self.image, self.spot = ProjectionHead(width, dim), ProjectionHead(shape.n_genes, dim)
        if terms.reconstruction > 0:
            self.rebuild = Reconstruction(width, shape.n_genes, dim=dim, heads=(4, 8), shared=True, whole=False)

    def tokens(self, batch: Batch) -> Tensor:
        """All tokens of the rows, (b, t, width)."""
        return torch.cat([x if x.ndim == 3 else x[:, None] for x in batch.own], dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """Embed the mean token."""
        out: Tensor = self.image(self.tokens(batch).mean(1))
        return out

    def keys(self, y: Tensor) -> Tensor:
        """Embed expression."""
        out: Tensor = self.spot(y)
        return out

    def step(self, batch: Batch) -> Step:
        """log(1 + contrast) and log(1 + squared error of the reconstruction)."""
        assert batch.y is not None
        valid = batch.weight > 0
        tokens = self.tokens(batch)
        image = self.image(tokens.mean(1))
        loss = image.new_zeros(())
        if self.terms.contrast > 0:
            loss = self.terms.contrast * published_contrast(image, self.keys(batch.y), valid, log=True)
        if self.terms.reconstruction > 0:
            wanted = image if self.terms.attached else image.detach()
            found = self.rebuild(tokens, batch.y)
            loss = loss + self.terms.reconstruction * log_squared_error(found, wanted, valid.to(image.dtype))
        return Step(None, loss)


@dataclass(frozen=True)
class CMRCSizes:
    """Of the project's network.

    Attributes
    ----------
    width, dim, rank
        Of the adapter, of the embedding, and of the regression's last layer.
    dropout
        Of features and of the adapter's units.
    rows
        Rows of a step whose tokens are reconstructed: the costly part of a step.
    """

    width: int = 256
    dim: int = 64
    rank: int = 32
    dropout: float = 0.3
    rows: int = 8


class FixedCMRC(RetrievalModule):
    """One adapter before everything; unit embeddings, whole masked tokens, two fusion blocks, and regression beside.

    The adapter a = GELU(LN(sum_v W_v x_v)) takes all views; tokens pass the W of their view, then the same norm. So
    the reconstruction reaches retrieval and regression through the adapter alone where its target is detached.

    Parameters
    ----------
    shape
        Views, and perhaps a token grid behind them.
    grid_view
        Place among the views of the one the grid belongs to; None gives the grid an adapter of its own.
    """

    regresses = True

    def __init__(self, shape: NetworkShape, *, terms: Terms, sizes: CMRCSizes, grid_view: int | None) -> None:
        super().__init__()
        views = [row[0] for row in shape.rows if len(row) == 1]
        self.terms, self.sizes, self.grid_view, self.n_views = terms, sizes, grid_view, len(views)
        self.drop_in, self.drop_hidden = SeededDropout(sizes.dropout), SeededDropout(sizes.dropout)
        self.adapters, self.norm = nn.ModuleList(nn.Linear(d, sizes.width) for d in views), nn.LayerNorm(sizes.width)
        self.image = ProjectionHead(sizes.width, sizes.dim)
        self.spot = ProjectionHead(shape.n_genes, sizes.dim)
        self.log_temperature = nn.Parameter(torch.tensor([math.log(START_TEMPERATURE)]))
        self.low_rank = nn.Linear(sizes.width, sizes.rank)
        self.genes = nn.Linear(sizes.rank, shape.n_genes)
        if terms.reconstruction > 0:
            self.rebuild = Reconstruction(
                sizes.width, shape.n_genes, dim=sizes.dim, heads=(4, 4), shared=False, whole=True, ratio=2
            )
            if len(shape.rows) > len(views) and grid_view is None:
                self.grid_adapter = nn.Linear(shape.dims[-1], sizes.width)

    def adapt(self, batch: Batch) -> Tensor:
        """The adapter's units of the rows, (b, width)."""
        views = [x[batch.rows] for x in batch.x[: self.n_views]]  # never the grid's
        x = torch.split(self.drop_in(torch.cat(views, dim=1)), [view.shape[1] for view in views], dim=1)
        linear = [adapter(one) for adapter, one in zip(self.adapters, x, strict=True)]
        return functional.gelu(self.norm(torch.stack(linear).sum(0)))

    def tokens(self, batch: Batch, *, rows: int) -> Tensor:
        """Adapted tokens of the first rows, (rows, t, width): one a view, and the grid's."""
        first = batch.rows[:rows]
        views = [x[first][:, None] for x in batch.x[: self.n_views]]
        linear = [adapter(one) for adapter, one in zip(self.adapters, views, strict=True)]
        if len(batch.x) > self.n_views:
            adapter = self.grid_adapter if self.grid_view is None else self.adapters[self.grid_view]
            linear.append(adapter(batch.x[-1][first]))
        return functional.gelu(self.norm(torch.cat(linear, dim=1)))

    def regress(self, hidden: Tensor) -> Tensor:
        """Genes (b, g) from the adapter's units."""
        out: Tensor = self.genes(self.low_rank(self.drop_hidden(hidden)))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict by regression, (b, n_genes)."""
        return self.regress(self.adapt(batch))

    def embed(self, batch: Batch) -> Tensor:
        """Embed all views, at length one."""
        return functional.normalize(self.image(self.adapt(batch)), dim=1)

    def keys(self, y: Tensor) -> Tensor:
        """Embed expression, at length one."""
        return functional.normalize(self.spot(y), dim=1)

    def step(self, batch: Batch) -> Step:
        """Regression, and the weighted contrast and reconstruction."""
        assert batch.y is not None
        hidden = self.adapt(batch)
        image = self.image(hidden)
        extra = image.new_zeros(())
        if self.terms.contrast > 0:
            unit, temperature = functional.normalize(image, dim=1), self.log_temperature.exp().clamp(min=0.01)
            keys = self.keys(batch.y)
            term = contrast(unit, keys, batch.weight, temperature=temperature, soft=self.terms.soft)
            extra = self.terms.contrast * term
        if self.terms.reconstruction > 0:
            extra = extra + self.terms.reconstruction * self.rebuilt(batch, image)
        return Step(self.regress(hidden), extra)

    def rebuilt(self, batch: Batch, image: Tensor) -> Tensor:
        """Loss of the reconstruction of the first rows' image embeddings (b, dim)."""
        assert batch.y is not None
        n = self.sizes.rows
        wanted = image[:n] if self.terms.attached else image[:n].detach()
        found = self.rebuild(self.tokens(batch, rows=n), batch.y[:n])
        return log_squared_error(found, wanted, batch.weight[:n])
