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

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import ProtocolError
from ..protocols.counts import SpotCounts
from ..protocols.protocol import Protocol
from ..protocols.scores.metrics import pearson_columns
from ..protocols.scores.scores import mean_of_defined
from ..protocols.targets import get_target_rule, smooth_3x3
from .comparison import Ceiling
from .details import HeldOutPredictions
from .head_spec import Line

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


PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Times the number of spots, on genes of unit variance. The best on the mean over all genes is taken: one choice
among six from thousands of scores, whose optimism is far below the third decimal."""

GROUPS = 5
# One inverse a group and penalty: beyond, minutes are spent on a line that is there to guide the eye.
MAX_GENES = 1500


def from_other_genes(values: Floats, slide: Ints) -> Floats:
    """Return the within-slide Pearson that ridge on the other genes reaches on slides held out, per gene.

    Parameters
    ----------
    values
        Targets, (n, n_genes).
    slide
        Slide of each spot, (n,). Slides are held out in five groups, each slide alone where they are fewer.

    Returns
    -------
    ndarray
        Mean over slides, (n_genes,); NaN where a gene is constant on every slide, and for all genes where there is one
        slide, fewer than two genes, or more than 1,500.
    """
    slides, n_genes = np.unique(slide), values.shape[1]
    if len(slides) < 2 or not 2 <= n_genes <= MAX_GENES:
        return np.full(n_genes, np.nan)
    parts = _standardised([np.asarray(values[slide == one], dtype=np.float64) for one in slides])
    group = np.arange(len(slides)) % min(GROUPS, len(slides))
    scores = np.full((len(PENALTIES), n_genes, len(slides)), np.nan)
    for held in np.unique(group):
        training = [part for part, own in zip(parts, group, strict=True) if own != held]
        correlation = np.sum([part.T @ part for part in training], axis=0) / sum(map(len, training))
        for i, penalty in enumerate(PENALTIES):
            coefficients = leave_one_gene_out(correlation, penalty)
            for s in np.flatnonzero(group == held):
                scores[i, :, s] = pearson_columns(parts[s] @ coefficients, parts[s])
    by_penalty = mean_of_defined(scores)  # (n_penalties, n_genes)
    overall = mean_of_defined(by_penalty)
    best = int(np.argmax(np.where(np.isnan(overall), -np.inf, overall)))
    return np.asarray(by_penalty[best])


def leave_one_gene_out(correlation: Floats, penalty: float) -> Floats:
    """Return ridge coefficients of every gene on all others, one gene a column, 0 for itself, (n_genes, n_genes).

    Parameters
    ----------
    correlation
        Of the genes, (n_genes, n_genes), or their second moments per spot.
    penalty
        Added to the diagonal.
    """
    inverse = np.linalg.inv(correlation + penalty * np.eye(len(correlation)))
    coefficients: Floats = -inverse / np.diag(inverse)
    np.fill_diagonal(coefficients, 0.0)
    return coefficients


def _standardised(parts: list[Floats]) -> list[Floats]:
    """Centre each slide's genes and bring them to unit variance within slides, over all slides together."""
    centred = [part - part.mean(axis=0) for part in parts]
    n = sum(map(len, parts))
    spread = np.sqrt(sum(np.einsum("ij,ij->j", part, part) for part in centred) / n)
    scale = np.where(spread > 0, spread, 1.0)
    return [part / scale for part in centred]


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredPanel:
    """What one fold scores: its genes, on so many test slides."""

    genes: tuple[str, ...]
    n_slides: int


def protocol_ceilings(
    protocols: Sequence[Protocol],
    counts: SpotCounts,
    held_out: Mapping[Line, Sequence[HeldOutPredictions]],
    *,
    seed: int = 0,
) -> tuple[Ceiling, ...]:
    """Return the ceiling lines of every protocol under which any head was scored.

    Parameters
    ----------
    protocols
        Those that were run.
    counts
        Raw counts of all slides that are compared.
    held_out
        Predictions of each line on all folds: every line of a protocol has the same folds and panels.
    seed
        Of the thinning.
    """
    ceilings = []
    for protocol in protocols:
        held = next((folds for line, folds in held_out.items() if line[0] == protocol.name), ())
        panels = [ScoredPanel(one.test.panel, len(one.test.slide_ids)) for one in held]
        if panels:
            target = target_of(protocol)
            ceilings.append(protocol_ceiling(protocol.name, counts, panels, target=target, seed=seed))
    return tuple(ceilings)


def target_of(protocol: Protocol) -> TargetOf:
    """Return the transform of counts that a protocol predicts, its smoothing included."""
    rule = get_target_rule(protocol.target).function
    if protocol.smoothing == "none":
        return rule

    def smoothed(counts: SpotCounts, panel: Ints) -> Floats:
        return smooth_3x3(rule(counts, panel), counts.array, counts.slide)

    return smoothed


def protocol_ceiling(
    protocol: str, counts: SpotCounts, panels: Sequence[ScoredPanel], *, target: TargetOf, seed: int = 0
) -> Ceiling:
    """Return the ceiling lines of a protocol.

    Parameters
    ----------
    protocol
        Its name.
    counts
        Raw counts of all slides that are compared.
    panels
        One a fold.
    target
        The transform that is predicted, its smoothing included. One that divides by the panel's total is right where
        all folds have one panel.
    seed
        Of the thinning.

    Returns
    -------
    Ceiling
        Without a counting ceiling (NaN) where counts are no whole numbers, which is logged.
    """
    position = {str(gene): i for i, gene in enumerate(counts.genes)}
    genes = tuple(dict.fromkeys(gene for panel in panels for gene in panel.genes))
    index = np.array([position[gene] for gene in genes], dtype=np.int64)
    try:
        counting = counting_ceiling(counts, index, target=target, seed=seed)
    except ProtocolError as error:
        log.warning("no ceiling under %s: %s", protocol, error)
        counting = np.full(len(genes), np.nan)
    others = from_other_genes(target(counts, index), counts.slide)
    return Ceiling(
        protocol=protocol,
        genes=genes,
        counting=counting,
        other_genes=others,
        counting_mean=_as_the_headline(counting, genes, panels),
        other_genes_mean=_as_the_headline(others, genes, panels),
    )


def _as_the_headline(values: Floats, genes: Sequence[str], panels: Sequence[ScoredPanel]) -> float:
    """Mean over test slides of the mean over the genes of their fold's panel."""
    position = {gene: i for i, gene in enumerate(genes)}
    means = [mean_of_defined(values[[position[gene] for gene in panel.genes]]) for panel in panels]
    weights = np.array([panel.n_slides for panel in panels], dtype=np.float64)
    return float(mean_of_defined(np.array(means, dtype=np.float64), weights=weights))
