"""The linear probe of HEST-Benchmark, by the scikit-learn calls that its scores are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError


@dataclass(frozen=True)
class HestProbe:
    """StandardScaler and PCA fitted on training spots, float32, then ridge by lsqr without an intercept.

    The penalty is 100 / (width x number of genes), width that of what is regressed on. Rows have no weights. An exact
    PCA or an exact ridge would move single genes by up to 3e-2 and 6e-4: hence the same solvers with the same seed.
    What is missing of each gene's training mean is added to the predictions: all of it where features have mean zero,
    as after the scaler. It leaves every correlation within a fold as it is and makes squared errors mean something.

    Source: HEST-Benchmark, `bench/benchmark.py` and `bench/trainer.py` at commit afd42c3. Its "no PCA" variant
    (alpha = 100 / (dim x genes)) has no scaler either.

    Attributes
    ----------
    reduce
        Fitted scaler and PCA; None where features are taken as they come.
    ridge
        The fitted regression.
    level
        (g,) mean of the training residuals.
    """

    reduce: Any
    ridge: Any
    level: NDArray[np.float32]
    alpha: float

    @classmethod
    def fit(
        cls, x: NDArray[np.float32], y: NDArray[np.float32], *, pca: int | None, alpha: float | None, seed: int
    ) -> Self:
        """Fit on training spots.

        Parameters
        ----------
        x, y
            (n, d) features and (n, g) targets.
        pca
            256 in HEST-Benchmark; None for its variant without.
        alpha
            Another penalty than HEST's.

        Raises
        ------
        HeadError
            If there are fewer spots or features than components.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        reduce = None
        if pca is not None:
            if pca > min(x.shape):
                msg = (
                    f"HEST's PCA to {pca} components came to {x.shape[0]} training spots of {x.shape[1]} features: "
                    f"it needs as many of both; give pca={min(x.shape)} or less, or pca=None"
                )
                raise HeadError(msg)
            reduce = Pipeline([("scaler", StandardScaler()), ("PCA", PCA(n_components=pca, random_state=seed))])
            # Not `transform`: a randomised PCA gives the rows it was fitted on another rounding, as HEST has it.
            reduced = np.asarray(reduce.fit_transform(x), dtype=np.float32)
        else:
            reduced = x
        alpha = 100 / (reduced.shape[1] * y.shape[1]) if alpha is None else alpha
        ridge = Ridge(solver="lsqr", alpha=alpha, random_state=seed, fit_intercept=False, max_iter=1000)
        residual = y - ridge.fit(reduced, y).predict(reduced).astype(np.float64)
        return cls(reduce, ridge, residual.mean(axis=0).astype(np.float32), alpha)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict (m, g)."""
        prediction: NDArray[np.float32] = np.asarray(self.ridge.predict(_reduced(self.reduce, x)) + self.level)
        return prediction.astype(np.float32)

    @property
    def n_parameters(self) -> int:
        """Of the regression, not of the PCA before it."""
        return int(self.ridge.coef_.size)


def _reduced(reduce: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x if reduce is None else np.asarray(reduce.transform(x), dtype=np.float32)
