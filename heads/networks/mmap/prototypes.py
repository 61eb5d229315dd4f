"""Prototypes: k-means centres of a slide's or a cohort's rows, and which of them each row attends to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....store.arrays import Ints
from ....store.spatial.neighbourhood import Neighbourhood

FEWEST, MOST, SPOTS_EACH = 32, 80, 5
MOST_CLUSTERED = 5000
"""Rows of a cohort that are clustered: more move its centres little and cost in proportion."""

Rows = NDArray[np.float32]


def prototypes_of(n: int) -> int:
    """Prototypes of a slide of n spots: min(clip(n // 5, 32, 80), n), the rule of MMAP's code."""
    return min(max(FEWEST, min(n // SPOTS_EACH, MOST)), n)


def centres_of(values: Rows, k: int, *, seed: int) -> Rows:
    """k-means centres (k, d) of rows (n, d), k at most n."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):  # threads that wait for one another cost ten times what clusters this small do
        return np.asarray(KMeans(k, n_init=1, random_state=seed).fit(values).cluster_centers_, dtype=np.float32)


def slide_prototypes(values: Rows, slide: Ints, *, seed: int) -> tuple[Rows, Ints]:
    """Prototypes of every slide on its own rows.

    Parameters
    ----------
    values
        (n, d).
    slide
        (n,).

    Returns
    -------
    tuple
        Centres (k, d) of all slides, and the slide (k,) of each.
    """
    slides = np.unique(slide)
    found = [centres_of(values[slide == s], prototypes_of(int((slide == s).sum())), seed=seed) for s in slides]
    return np.concatenate(found), np.repeat(slides, [len(one) for one in found])


def slide_means(values: Rows, slide: Ints) -> tuple[Rows, Ints]:
    """The mean row of every slide, as a bank of one prototype each: the control of what a slide's name does alone."""
    slides = np.unique(slide)
    return np.stack([values[slide == one].mean(axis=0) for one in slides]), slides


def top_half(values: Rows, slide: Ints, bank: Rows, bank_slide: Ints) -> Neighbourhood:
    """The half of its slide's prototypes, rounded down, at least one, that each row is nearest to by cosine.

    Returns
    -------
    Neighbourhood
        (n, widest half), rows of `bank`, of largest cosine first; masked where a slide has fewer.
    """
    halves = {s: max(1, int((bank_slide == s).sum()) // 2) for s in np.unique(slide)}
    width = max(halves.values(), default=1)
    index, mask = np.zeros((len(values), width), dtype=np.int64), np.zeros((len(values), width), dtype=np.bool_)
    distance = np.zeros((len(values), width))
    unit, bank_unit = _unit(values), _unit(bank)
    for one, kept in halves.items():
        rows, theirs = np.flatnonzero(slide == one), np.flatnonzero(bank_slide == one)
        cosine = unit[rows] @ bank_unit[theirs].T  # (n_s, k_s)
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :kept]
        index[rows, :kept], mask[rows, :kept] = theirs[best], True
        distance[rows, :kept] = 1.0 - np.take_along_axis(cosine, best, axis=1)
    return Neighbourhood.where(mask, index, distance)


def cohort_prototypes(values: Rows, slide: Ints, k: int, *, seed: int) -> Rows:
    """Centres (at most k, d) of rows (n, d) less the mean of their slide, over all slides together."""
    centred = values.copy()
    for one in np.unique(slide):
        centred[slide == one] -= centred[slide == one].mean(axis=0)
    if len(centred) > MOST_CLUSTERED:
        centred = centred[np.random.default_rng(seed).choice(len(centred), MOST_CLUSTERED, replace=False)]
    return centres_of(centred, min(k, len(centred)), seed=seed)


def _unit(values: Rows) -> Rows:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), dtype=np.float32)
