"""What heads on stored tokens share: which columns they read, and tokens reduced once before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ..store.errors import HeadError
from ..store.feature_column import FeatureColumn
from ..store.table import Table
from .contract import training_arrays
from .engine.head import NeuralHead
from .engine.module import Shape
from .engine.training import TrainingOptions
from .tokens import Level, Rows, columns_of, rows_of, view_of
from .tokens_reduced import Components, learn_components, reduced

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

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[Level, ...]:
        """Levels among feature keys and their row shapes, finest first; `table` is for what a refusal advises."""
        raise NotImplementedError

    def told(self, levels: tuple[Level, ...]) -> dict[str, Any]:
        """What `chosen_` says of the levels."""
        return {"levels": [level.key for level in levels]}

    def levels_in(self, shape: Shape) -> tuple[Level, ...]:
        """Levels that a network is built for: those of the fit, or where there was none yet, those of the shape."""
        found: tuple[Level, ...] | None = getattr(self, "levels_", None)
        return self.levels_of(dict(zip(shape.keys, shape.rows, strict=True))) if found is None else found

    def vectors_in(self, shape: Shape) -> dict[int, int]:
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
