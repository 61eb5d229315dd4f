"""Features standardised and reduced on training spots, as HEST-Benchmark does before it probes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.files.column import FeatureColumn, standardise
from ...store.table import Table

COMPONENTS = 256


def scaled_components(train: Table, test: Table, *, seed: int) -> tuple[Table, Table, str]:
    """Both tables with one column of principal components in place of their features, and what was done in words.

    scikit-learn's `StandardScaler` and `PCA(256)` are fitted on the training spots, all views side by side, and the
    components are float32, as in HEST-Benchmark. Fewer spots or features than that give as many components.

    Parameters
    ----------
    seed
        Of the randomised PCA.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    x = train.features()
    components = min(COMPONENTS, *x.shape)
    steps = [("scaler", StandardScaler()), ("pca", PCA(n_components=components, random_state=seed))]
    pipe = Pipeline(steps)
    learnt = pipe.fit_transform(
        x
    )  # not `transform`: a randomised PCA gives its own rows another rounding, as HEST has it
    words = f"z-scored over training spots and reduced to {components} principal components learnt there"
    return _with(train, learnt), _with(test, pipe.transform(test.features())), words


def scaled_tokens(train: Table, test: Table) -> tuple[Table, Table]:
    """Both tables with token grids and sub-tiles z-scored by the tokens of the training slides, and not reduced.

    What reduces a token is up to the head that reads it: a spot's tokens side by side would be one long vector, and
    their components no tokens.
    """
    learnt = {key: standardise(column, within="cohort") for key, column in train.token_columns.items()}
    seen = {key: _like(test.token_columns[key], column) for key, column in learnt.items()}
    return replace(train, token_columns=learnt), replace(test, token_columns=seen)


def _like(column: FeatureColumn, learnt: FeatureColumn) -> FeatureColumn:
    """A column shifted and scaled as another one, whose slides all have the same statistics."""
    assert learnt.shift is not None and learnt.scale is not None
    shift, scale = (np.repeat(values[:1], len(column.parts), axis=0) for values in (learnt.shift, learnt.scale))
    return replace(column, shift=shift, scale=scale)


def _with(table: Table, components: NDArray[Any]) -> Table:
    """A table whose only feature column holds values (n, c) for its rows, and zeros for rows it leaves out."""
    source = next(iter(table.columns.values()))
    parts = []
    for one in range(len(table.slide_ids)):
        here = np.flatnonzero(table.slide == one)
        part = np.zeros((len(source.parts[one]), components.shape[1]), dtype=np.float32)
        part[table.row[here]] = components[here]
        parts.append(part)
    prints = "+".join(column.fingerprint for column in table.columns.values())
    key, made_of = f"components of {' + '.join(table.columns)}", tuple(table.columns)
    return replace(table, columns={key: FeatureColumn(key, prints, tuple(parts), made_of=made_of)})
