"""What heads on stored tokens share: which columns they read, and tokens reduced once before training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...store.errors import HeadError
from ...store.files.column import FeatureColumn
from ...store.table import Table
from ..contract import training_arrays
from ..engine.head import NeuralHead
from ..engine.network import NetworkShape, SeededDropout
from ..engine.training import TrainingOptions
from .tokens import Rows, TokenLevel, columns_of, moved, rows_of, view_of

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


SAMPLE = 20_000
"""Tokens of a key, over all training rows, from which components are learnt."""

BLOCK = 512
"""Rows that are reduced together."""

Components = dict[str, NDArray[np.float32]]
"""Under `mean KEY` (dim,), under `basis KEY` (dim, k): orthonormal directions over one spread, so that coordinates of
all tokens together have unit variance per number."""


def learn_components(table: Table, columns: tuple[FeatureColumn, ...], *, size: int, seed: int) -> Components:
    """Principal components of the tokens of each key with more than `size` numbers, from a sample of training rows.

    Parameters
    ----------
    size
        Components kept.
    seed
        Of the sample.
    """
    found: Components = {}
    for column in columns:
        if len(column.row_shape) == 1 or column.dim <= size:
            continue
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(table))[: max(1, SAMPLE // column.row_shape[0])]
        tokens = column.gather(table.slide[rows], table.row[rows]).reshape(-1, column.dim)
        mean = tokens.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = torch.from_numpy(tokens - mean)
        values, vectors = (part.numpy() for part in torch.linalg.eigh((centred.T @ centred).double() / len(centred)))
        kept = vectors[:, ::-1][:, :size].copy()
        kept *= np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(size)])  # an eigenvector has no sign of its own
        spread = np.sqrt(max(values[::-1][:size].mean(), 1e-12))
        found[f"mean {column.key}"] = mean
        found[f"basis {column.key}"] = (kept / spread).astype(np.float32)
    return found


def reduced(table: Table, column: FeatureColumn, components: Components) -> FeatureColumn:
    """A column of the coordinates of its tokens, in memory as float16, with zeros for rows that the table leaves out.

    The column itself where no components were learnt for it.
    """
    basis = components.get(f"basis {column.key}")
    if basis is None:
        return column
    mean = components[f"mean {column.key}"]
    parts = []
    for one, stored in enumerate(column.parts):
        rows = np.flatnonzero(table.slide == one)
        part = np.zeros((len(stored), *column.row_shape[:-1], basis.shape[1]), dtype=np.float16)
        for start in range(0, len(rows), BLOCK):
            here = rows[start : start + BLOCK]
            tokens = torch.from_numpy(column.gather(table.slide[here], table.row[here]))
            part[table.row[here]] = ((tokens - torch.from_numpy(mean)) @ torch.from_numpy(basis)).half().numpy()
        parts.append(part)
    digest = hashlib.sha256(basis.tobytes() + mean.tobytes()).hexdigest()[:16]
    fingerprint = f"{column.fingerprint} on components {digest}"
    return replace(column, fingerprint=fingerprint, parts=tuple(parts), shift=None, scale=None)


BATCH = 64
"""Spots a step: attention needs more steps than a section of some 200 spots gives in batches of 256."""

PAPER_TRAINING = TrainingOptions(
    batch=1, at_least=96, lr=1e-4, lr_end=1e-4, warmup=0.0, weight_decay=0.0, clip=1e9, pearson_weight=0.0,
    unit_spread=False, weighted=False,
)  # fmt: skip
"""Adam at 1e-4 without schedule, decay or clipping, mean squared error, batches of 96 spots of all slides."""


@dataclass(frozen=True, kw_only=True)
class DefaultMode:
    """How heads on tokens learn in their default modes, where little is known of them but few spots.

    Attributes
    ----------
    reduce
        Principal components of a token, learnt on training spots; None leaves tokens as stored.
    vectors
        Whether the views' whole-patch vectors are read beside the tokens, through `hidden` units.
    hidden
        See `vectors`.
    rank
        Of the output; None maps straight to the genes.
    dropout, weight_decay
        Of vectors, hidden units and what is read of the tokens; of AdamW.
    """

    reduce: int | None
    vectors: bool
    hidden: int
    rank: int | None
    dropout: float
    weight_decay: float


class TokenHead(NeuralHead):
    """A head that reads levels of tokens, and where it wants them the whole-patch vectors of the views.

    Parameters
    ----------
    default
        Of the default mode.
    published
        Whether tokens are read as stored, alone, and learnt from as published.
    members
        1 where `published`, else 3, where not given.
    anchor, epochs, seed, device
        As in `NeuralHead`.
    """

    reads_tokens = True

    def __init__(
        self,
        default: DefaultMode,
        *,
        published: bool,
        anchor: str | None,
        epochs: int | None,
        members: int | None,
        seed: int,
        device: str,
    ) -> None:
        training = TrainingOptions(batch=BATCH, weight_decay=default.weight_decay)
        super().__init__(
            anchor=anchor,
            training=PAPER_TRAINING if published else training,
            epochs=epochs,
            members=(1 if published else 3) if members is None else members,
            seed=seed,
            device=device,
        )
        self.hidden, self.weight_decay, self.pooled = default.hidden, default.weight_decay, not published
        self.reduce, self.rank = (None, None) if published else (default.reduce, default.rank)
        self.vectors, self.dropout = (False, 0.0) if published else (default.vectors, default.dropout)
        self._prepared: tuple[Table, tuple[FeatureColumn, ...]] | None = None

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[TokenLevel, ...]:
        """Levels among feature keys and their row shapes, finest first; `table` is for what a refusal advises."""
        raise NotImplementedError

    def told(self, levels: tuple[TokenLevel, ...]) -> dict[str, Any]:
        """What `chosen_` says of the levels."""
        return {"levels": [level.key for level in levels]}

    def levels_in(self, shape: NetworkShape) -> tuple[TokenLevel, ...]:
        """Levels that a network is built for: those of the fit, or where there was none yet, those of the shape."""
        found: tuple[TokenLevel, ...] | None = getattr(self, "levels_", None)
        return self.levels_of(dict(zip(shape.keys, shape.rows, strict=True))) if found is None else found

    def vectors_in(self, shape: NetworkShape) -> dict[int, int]:
        """Place in a batch and length of each whole-patch vector."""
        return {i: row[0] for i, row in enumerate(shape.rows) if len(row) == 1} if self.vectors else {}

    def fit(self, table: Table) -> Self:
        """Learn components, then as every neural head.

        Raises
        ------
        HeadError
            If the table lacks the tokens, an option does not exist, or the table was not prepared for training.
        """
        training_arrays(table)
        self.levels_ = self.levels_of(rows_of(table), table=table)
        views = {view_of(level.key) for level in self.levels_}
        plain = [
            key
            for key, one in table.columns.items()
            if len(views) > 1 or {view_of(own) for own in one.sources} <= views
        ]
        self.keys_ = tuple(dict.fromkeys([level.key for level in self.levels_] + (plain if self.vectors else [])))
        stored = columns_of(table, self.keys_)
        self.components_: Components = {}
        if self.reduce is not None:
            self.components_ = learn_components(table, stored, size=self.reduce, seed=self.seed)
        self._prepared = table, tuple(reduced(table, column, self.components_) for column in stored)
        try:
            super().fit(table)
        finally:
            self._prepared = None
        self.chosen_ |= self.told(self.levels_)
        return self

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Levels, then vectors, reduced as in training.

        Raises
        ------
        HeadError
            If the table lacks one that the head was trained on.
        """
        if self._prepared is not None and self._prepared[0] is table:
            return self._prepared[1]
        have = table.columns | table.token_columns
        missing = [key for key in self.keys_ if key not in have]
        if missing:
            msg = (
                f"this head was trained on {', '.join(self.keys_)}; the table lacks {', '.join(missing)}: featurize it"
            )
            raise HeadError(msg)
        return tuple(reduced(table, have[key], self.components_) for key in self.keys_)
