"""How well expression can be predicted at all: the ceiling that counting sets, from the counts alone.

A spot's target y is made from counts k, and k is drawn around expected counts: y = m + e, with m = E[y | expected
counts] and e the noise of counting. Who knows m scores the correlation of y and m, which is sqrt(R) with the
reliability R = Var(m) / Var(y), variances within the slide; nothing that can be seen of the spot does better.

R is estimated by binomial thinning. Each count is split in two, k1 ~ Bin(k, 1/2) and k2 = k - k1. For Poisson counts
the halves are independent given the expected counts, so the covariance of the targets made from them is Var(m) at half
the depth, without any noise. Were targets linear in counts, the odds R / (1 - R) would double with the depth (the
formula of Spearman and Brown, 1910). log1p(CP10K) is far from linear at low counts: there the odds grow by 1.5 and not
by 2, at high counts by more. So halves are split again, the growth of the odds from a quarter of the depth to a half is
measured, and the odds are carried one step further with it.

Bias. Against exact Poisson calculations, mean counts of 0.05 to 50 and rates that vary by 30 to 80 %: -0.05 to +0.02
for a gene, where Spearman-Brown is off by -0.06 to +0.05; some -0.01 for the mean of a panel. Reliabilities are
averaged over slides before the root is taken, which lies above the mean of the roots: by 0.5 % of it where they differ
by a fifth from slide to slide.

What it is not. Noise that is not of counting (expression that varies from spot to spot for no visible reason) is part
of m here, and so is what the spot's own depth does to the target. No image shows either: this is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import ProtocolError
from .counts import SpotCounts
from .defined import mean_of_defined

TargetOf = Callable[[SpotCounts, Ints], Floats]
"""Counts and the panel's positions -> targets (n, n_panel), as `TargetRule.function`."""

# Counts are thinned until so many spots were: the noise of the thinning is then well below that of the spots.
THINNED_SPOTS = 6000
# The growth of the odds is that of the mean over so many genes of like expression on either side: one gene's own is
# the quotient of two small differences, and wild.
NEIGHBOURS = 25
# Doubling the depth never lowers the odds, and Poisson noise never falls faster than by the depth squared.
GROWTH_LIMITS = (1.0, 4.0)
SPEARMAN_BROWN = 2.0
# Above this the rounding of the two variances shows.
HIGHEST = 1.0 - 1e-6


def counting_ceiling(
    counts: SpotCounts, panel: Ints, *, target: TargetOf, draws: int | None = None, seed: int = 0
) -> Floats:
    """Return the within-slide Pearson that who knows every spot's expected counts would reach, per gene.

    Parameters
    ----------
    counts
        Raw counts of the slides to speak of.
    panel
        Positions of the genes.
    target
        The transform that is predicted.
    draws
        How often counts are thinned; where not given as often as makes 6,000 spots, once at least.
    seed
        Of the thinning.

    Returns
    -------
    ndarray
        (n_panel,), 0 for a gene whose halves do not agree, NaN for one that is constant on every slide.

    Raises
    ------
    ProtocolError
        If counts are not whole numbers, which cannot be thinned.
    """
    own = _panel_counts(counts, panel)
    everything = np.arange(len(panel))
    rng = np.random.default_rng(seed)
    slides = np.unique(own.slide)
    half, quarter = (np.zeros((2, len(slides), len(panel))) for _ in range(2))  # covariance, variance
    for _ in range(draws or -(-THINNED_SPOTS // max(len(own), 1))):
        halves = thinned(own, rng)
        quarters = [part for one in halves for part in thinned(one, rng)]
        for parts, into in ((halves, half), (quarters, quarter)):
            values = [target(part, everything) for part in parts]
            into += np.stack([_covariances([v[own.slide == one] for v in values]) for one in slides], axis=1)
    level = target(own, everything).mean(axis=0)
    return _carried(_reliability(half), _reliability(quarter), level)


def thinned(counts: SpotCounts, rng: np.random.Generator) -> tuple[SpotCounts, SpotCounts]:
    """Split every count in two, each with probability one half; what lies outside the genes given is split alike.

    Parameters
    ----------
    counts
        Whole numbers.
    rng
        Source of the split.
    """
    matrix = counts.matrix
    whole = np.round(matrix.data).astype(np.int64)
    outside = np.round(counts.depth - _row_sums(counts)).astype(np.int64).clip(min=0)
    first, first_outside = rng.binomial(whole, 0.5), rng.binomial(outside, 0.5)
    sides = []
    for data, rest in ((first, first_outside), (whole - first, outside - first_outside)):
        part = matrix.copy()
        part.data = data.astype(np.float64)
        part.eliminate_zeros()
        depth: Floats = np.asarray(part.sum(axis=1), dtype=np.float64).ravel() + rest
        sides.append(SpotCounts(part, counts.genes, depth, counts.slide, counts.center_um, counts.array))
    return sides[0], sides[1]


def _panel_counts(counts: SpotCounts, panel: Ints) -> SpotCounts:
    """The panel alone, totals over all genes beside it: what is thinned is all that targets depend on."""
    picked = counts.matrix[:, panel].tocsr()
    broken = ~np.isfinite(picked.data) | (picked.data < 0) | (picked.data != np.round(picked.data))
    if broken.any():
        msg = (
            f"Counts must be whole numbers to be thinned; {int(broken.sum())} are not, such as "
            f"{float(picked.data[broken][0]):g}. Give raw counts."
        )
        raise ProtocolError(msg)
    return SpotCounts(picked, counts.genes[panel], counts.depth, counts.slide, counts.center_um, counts.array)


def _row_sums(counts: SpotCounts) -> Floats:
    return np.asarray(counts.matrix.sum(axis=1, dtype=np.float64)).ravel()


def _covariances(parts: list[Floats]) -> Floats:
    """Mean covariance of two of the parts, and their mean variance, per gene: (2, n_genes)."""
    k, n = len(parts), len(parts[0])
    centred = [part - part.mean(axis=0) for part in parts]
    own = sum(np.einsum("ij,ij->j", part, part) for part in centred) / n
    total = np.sum(centred, axis=0)
    shared = np.einsum("ij,ij->j", total, total) / n - own
    return np.stack([shared / (k * (k - 1)), own / k])


def _reliability(sums: Floats) -> Floats:
    """Mean over slides of covariance over variance, (n_genes,); a slide on which a gene is constant is left out."""
    covariance, variance = sums
    ratio = np.divide(covariance, variance, out=np.full(variance.shape, np.nan), where=variance > 0)
    return np.clip(mean_of_defined(ratio.T), None, HIGHEST)


def _carried(half: Floats, quarter: Floats, level: Floats) -> Floats:
    """Carry reliabilities (n_genes,) from half the depth to the whole, and take the root."""
    ceiling = np.full(len(half), np.nan)
    known = np.flatnonzero(np.isfinite(half) & np.isfinite(quarter))
    ranked = known[np.argsort(level[known], kind="stable")]
    odds_half, odds_quarter = (side[ranked] / (1.0 - side[ranked]) for side in (half, quarter))
    growth = growth_of_odds(odds_half, odds_quarter)
    odds = growth * np.clip(odds_half, 0.0, None)
    ceiling[ranked] = np.sqrt(odds / (1.0 + odds))
    return ceiling


def growth_of_odds(half: Floats, quarter: Floats) -> Floats:
    """Return by how much the odds grow as the depth doubles, for genes in order of expression, (n_genes,).

    Parameters
    ----------
    half, quarter
        Odds at half and at a quarter of the depth, (n_genes,).

    Returns
    -------
    ndarray
        The quotient of their means over `NEIGHBOURS` genes on either side, between 1 and 4; 2 where there is no signal.
    """
    sums = [np.concatenate([[0.0], np.cumsum(side)]) for side in (half, quarter)]
    at = np.arange(len(half))
    first, last = np.maximum(at - NEIGHBOURS, 0), np.minimum(at + NEIGHBOURS + 1, len(half))
    above, below = (side[last] - side[first] for side in sums)
    growth = np.divide(above, below, out=np.full(len(half), SPEARMAN_BROWN), where=(below > 0) & (above > 0))
    limited: Floats = np.clip(growth, *GROWTH_LIMITS)
    return limited
