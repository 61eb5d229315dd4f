"""Features standardised and reduced on training spots, as HEST-Benchmark does before it probes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.feature_column import FeatureColumn
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
    key = f"components of {' + '.join(table.columns)}"
    return replace(table, columns={key: FeatureColumn(key, prints, tuple(parts))})
