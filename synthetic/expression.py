"""Counts whose law is known: means from morphology, context, patient and slide, noise from a negative binomial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..store.arrays import Floats, Ints, Strings
from .tissue import LATENTS

GROUPS = ("local", "context", "housekeeping")
"""Genes that follow a spot's own morphology; its surroundings, where morphology allows; or neither."""

GROUP_SHARES = (0.65, 0.2, 0.15)

PARTNER = "nests"
"""The local latent that decides in which direction context acts."""

MEDIAN_DEPTH = 5000.0
DEPTH_SPREAD = 0.35
DEPTH_BY_NESTS = 0.08
"""Median counts of a spot; spread of their logarithm within a slide, and the small part that morphology explains."""


@dataclass(frozen=True)
class GeneModel:
    """What the expected counts of every gene depend on; effects are on the natural logarithm.

    Attributes
    ----------
    genes
        (n_genes,) names, which tell the group.
    group
        (n_genes,) index into `GROUPS`.
    base
        (n_genes,) level.
    local
        (n_genes, 4) effect of each latent, per standard deviation over a slide's spots.
    interaction
        (n_genes,) effect of context times `PARTNER`, both standardised. Context alone has no effect.
    dispersion
        (n_genes,) phi of the variance mu + phi mu².
    """

    genes: Strings
    group: Ints
    base: Floats
    local: Floats
    interaction: Floats
    dispersion: Floats


@dataclass(frozen=True)
class Counts:
    """Counts of one slide and the law they were drawn from.

    Attributes
    ----------
    counts
        (n, n_genes) int64.
    mean
        (n, n_genes) expected counts, given the depth.
    depth
        (n,) expected total.
    rate
        (n, n_genes) what each count was drawn around: the mean times the spot's own gamma noise. Counts are Poisson
        given the rate.
    explainable
        (n_genes,) share of the variance over the slide's spots of log1p(CP10K) that its noise-free value has.
    """

    counts: Ints
    mean: Floats
    depth: Floats
    rate: Floats
    explainable: Floats


def draw_genes(rng: np.random.Generator, n_genes: int) -> GeneModel:
    """Draw the genes of a cohort: every group at every level of expression."""
    group = rng.permutation(np.repeat(np.arange(3), _sizes(n_genes)))
    local = np.zeros((n_genes, len(LATENTS)))
    main = rng.integers(len(LATENTS), size=n_genes)
    side = (main + rng.integers(1, len(LATENTS), size=n_genes)) % len(LATENTS)
    sign = rng.choice([-1.0, 1.0], size=(n_genes, 2))
    rows = np.arange(n_genes)
    local[rows, main] = sign[:, 0] * rng.uniform(0.12, 0.45, n_genes)
    local[rows, side] = sign[:, 1] * rng.uniform(0.0, 0.15, n_genes)
    # A trace of local effect keeps the context genes from being recognised by having none.
    local *= np.array([1.0, 0.25, 0.0])[group][:, None]
    interaction = np.where(group == 1, rng.choice([-1.0, 1.0], n_genes) * rng.uniform(0.25, 0.45, n_genes), 0.0)
    return GeneModel(
        genes=np.array([f"{GROUPS[kind].upper()}{i:04d}" for i, kind in enumerate(group)]),
        group=group,
        base=rng.normal(0, 0.8, n_genes),
        local=local,
        interaction=interaction,
        dispersion=0.12 * np.exp(rng.normal(0, 0.4, n_genes)),
    )


def _sizes(n_genes: int) -> list[int]:
    """Genes per group; the last takes what rounding leaves."""
    first = [round(n_genes * share) for share in GROUP_SHARES[:-1]]
    return [*first, n_genes - sum(first)]


def draw_offset(rng: np.random.Generator, n_genes: int, *, spread: float) -> Floats:
    """Effect (n_genes,) of one patient or slide on each gene."""
    return rng.normal(0, spread, n_genes)


def draw_counts(
    model: GeneModel, morphology: Floats, context: Floats, *, offset: Floats, rng: np.random.Generator
) -> Counts:
    """Draw the counts of one slide.

    The composition of a spot is the softmax over genes of
    base + local · morphology + interaction x context x morphology[`PARTNER`] + offset; expected counts are depth
    times composition, counts are negative binomial around them (gamma-Poisson).

    Parameters
    ----------
    model
        The genes.
    morphology
        (n, 4) standardised local latents.
    context
        (n,) standardised mean of the context latent around the spot.
    offset
        (n_genes,) patient and slide effects together.
    rng
        Source of depth and counts.
    """
    partner = morphology[:, LATENTS.index(PARTNER)]
    effect = morphology @ model.local.T + np.outer(context * partner, model.interaction)  # (n, n_genes)
    weight = np.exp(model.base + offset + effect)
    composition = weight / weight.sum(axis=1, keepdims=True)
    level = np.log(MEDIAN_DEPTH) + rng.normal(0, 0.15)
    depth = np.exp(level + DEPTH_BY_NESTS * partner + rng.normal(0, DEPTH_SPREAD, len(partner)))
    mean = depth[:, None] * composition
    rate = rng.gamma(1 / model.dispersion, mean * model.dispersion)
    counts = rng.poisson(rate)
    return Counts(counts, mean, depth, rate, explainable=_explainable(counts, composition))


def expected_target(
    mean: Floats, *, rng: np.random.Generator, dispersion: Floats | None = None, draws: int = 200
) -> Floats:
    """Return the expected log1p(CP10K) of spots whose counts follow a known law, (n, n_genes).

    It is the best prediction by who knows the law: its correlation with the target is the highest there is.

    Parameters
    ----------
    mean
        Expected counts, (n, n_genes): `Counts.mean` for who knows the tissue, `Counts.rate` for who also knows what
        each spot does for no visible reason.
    rng
        Source of the draws that are averaged.
    dispersion
        (n_genes,) phi of the negative binomial; None for Poisson counts, the law given the rate.
    draws
        How many; the average keeps 1 / draws of the target's noise.
    """
    total = np.zeros(mean.shape)
    for _ in range(draws):
        rate = mean if dispersion is None else rng.gamma(1 / dispersion, mean * dispersion)
        counts = rng.poisson(rate)
        total += np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    return total / draws


def _explainable(counts: Ints, composition: Floats) -> Floats:
    """Variance of the noise-free target over that of the target, per gene; NaN where the target is constant."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    target = np.log1p(1e4 * counts / total).var(axis=0)
    noise_free = np.log1p(1e4 * composition).var(axis=0)
    return np.asarray(np.divide(noise_free, target, out=np.full(len(target), np.nan), where=target > 0))
