"""The contract of a head: scikit-learn's, on tables."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ..store.errors import HeadError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..store.table import Table


class Head(Protocol):
    """Anything with `fit(table)` and `predict(table)`.

    The constructor only stores its options; learnt things end in `_`; the seed is an option. A head learns
    `table.targets`, which the protocol has centred per slide, weighs rows by `table.weights`, and predicts the same:
    deviations from `table.target_offset` of each row's slide. The comparison adds the offset back.
    """

    def fit(self, table: Table) -> Self:
        """Learn from the rows of a prepared table."""
        ...

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel) for the rows of a table, which carries no targets."""
        ...


def training_arrays(table: Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets (n, n_panel) and weights (n,) of a prepared table.

    Raises
    ------
    HeadError
        If the table was not prepared for training, or a target or weight is NaN or infinite.
    """
    if table.targets is None or table.weights is None:
        msg = "this table has no targets to learn: prepare it with tissuary.heads.comparison.preparation.prepare"
        raise HeadError(msg)
    for name, values in (("targets", table.targets), ("weights", table.weights)):
        odd = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(odd):
            msg = f"{name} of {len(odd)} rows are NaN or infinite, the first of row {odd[0]}: leave these rows out"
            raise HeadError(msg)
    return table.targets, table.weights


def with_views(table: Table, keys: tuple[str, ...]) -> Table:
    """Return the table with the views of training, in their order.

    Raises
    ------
    HeadError
        If it lacks one.
    """
    if tuple(table.columns) == keys:
        return table
    missing = [key for key in keys if key not in table.columns]
    if missing:
        msg = (
            f"this head was trained on {', '.join(keys)}; the table lacks {', '.join(missing)}: featurize it, and ask "
            "for it when the table is made"
        )
        raise HeadError(msg)
    return replace(table, columns={key: table.columns[key] for key in keys})


def reads_tokens(head: Head) -> bool:
    """Whether a head reads `table.token_columns`, as its attribute of this name says; without one it does not."""
    return bool(getattr(head, "reads_tokens", False))


def options_of(head: Any) -> dict[str, Any]:
    """Options of a head as it was constructed; what it chose on inner folds is in `chosen_`."""
    public = {name: value for name, value in vars(head).items() if not name.endswith("_") and not name.startswith("_")}
    return {name: asdict(value) if is_dataclass(value) else value for name, value in public.items()}  # type: ignore[arg-type]
