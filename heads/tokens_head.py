"""What heads on stored tokens share: which columns they read, and tokens reduced once before training."""

from __future__ import annotations

from typing import Any, Self

from ..store.errors import HeadError
from ..store.feature_column import FeatureColumn
from ..store.table import Table
from .contract import training_arrays
from .engine.head import NeuralHead
from .engine.module import Shape
from .engine.training import TrainingOptions
from .tokens import Level, Rows, columns_of, is_key, rows_of, view_of
from .tokens_reduced import Components, learn_components, reduced


class TokenHead(NeuralHead):
    """A head that reads levels of tokens, and where it wants them the whole-patch vectors of the views.

    Parameters
    ----------
    reduce
        Principal components kept of every token, learnt on training spots; None leaves tokens as stored.
    vectors
        Whether the vectors of all views follow the levels.
    anchor, training, epochs, members, seed, device
        As in `NeuralHead`.
    """

    reads_tokens = True

    def __init__(
        self,
        *,
        reduce: int | None,
        vectors: bool,
        anchor: str | None,
        training: TrainingOptions,
        epochs: int | None,
        members: int,
        seed: int,
        device: str,
    ) -> None:
        super().__init__(anchor=anchor, training=training, epochs=epochs, members=members, seed=seed, device=device)
        self.reduce, self.vectors = reduce, vectors
        self._prepared: tuple[Table, tuple[FeatureColumn, ...]] | None = None

    def levels_of(self, rows: Rows) -> tuple[Level, ...]:
        """Levels among feature keys and their row shapes, finest first."""
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
        self.levels_ = self.levels_of(rows_of(table))
        views = {view_of(level.key) for level in self.levels_}
        plain = [key for key in table.columns if is_key(key) and (len(views) > 1 or view_of(key) in views)]
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
