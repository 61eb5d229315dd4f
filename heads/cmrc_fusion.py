"""CMRCNet's reconstruction branch (arXiv 2506.08854): masked image tokens, gene tokens, and blocks that fuse them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .engine.attention import attend
from .engine.dropout import SeededDropout

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
