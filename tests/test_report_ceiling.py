"""The ceiling lines: against the generator's own truth, against exact laws, and where nothing can be told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import Ridge

from tissuary.heads.comparison.ceiling import (
    ScoredPanel,
    counting_ceiling,
    from_other_genes,
    growth_of_odds,
    leave_one_gene_out,
    protocol_ceiling,
    thinned,
)
from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.targets import get_target_rule
from tissuary.store.errors import ProtocolError
from tissuary.synthetic import CohortSpec
from tissuary.synthetic.expression import draw_counts, draw_genes, draw_offset, expected_target
from tissuary.synthetic.tissue import array_centers_um, context, grow_tissue, local_morphology, spots_on_tissue

CP10K = get_target_rule("log1p-cp10k").function
# What the estimate may miss the truth by: the mean over the panel, and a gene on the average.
PANEL_TOLERANCE, GENE_TOLERANCE = 0.03, 0.06


def spot_counts(counts, slide, depth=None):
    counts = np.asarray(counts)
    return SpotCounts(
        sparse.csr_matrix(counts.astype(np.float64)),
        np.array([f"g{i}" for i in range(counts.shape[1])]),
        np.asarray(counts.sum(axis=1) if depth is None else depth, dtype=np.float64),
        np.asarray(slide),
        np.zeros((len(counts), 2)),
    )


def target_of(counts):
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def pearson(a, b):
    return np.array([np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(a.shape[1])])


def synthetic(*, slides, dispersion_factor=1.0, seed=0):
    """The generator's sections and counts, without their pictures."""
    spec = CohortSpec(patients=slides, slides_per_patient=1, seed=seed, n_genes=200)
    model = draw_genes(spec.rng(0), spec.n_genes)
    model = dataclasses.replace(model, dispersion=model.dispersion * dispersion_factor)
    centers_um, _ = array_centers_um(spec.spots_per_side, spec.pitch_um)
    drawn = []
    for number in range(slides):
        tissue = grow_tissue(spec.rng(2, number), side_um=spec.side_um, centers_um=centers_um)
        here = centers_um[spots_on_tissue(tissue, centers_um)]
        rng = spec.rng(4, number)
        offset = draw_offset(rng, spec.n_genes, spread=0.38)
        drawn.append(draw_counts(model, local_morphology(tissue, here), context(tissue, here), offset=offset, rng=rng))
    return model, drawn


@pytest.fixture(scope="module")
def cohort():
    model, drawn = synthetic(slides=5)
    counts = spot_counts(
        np.concatenate([one.counts for one in drawn]), np.repeat(np.arange(5), [len(one.counts) for one in drawn])
    )
    panel = np.argsort(-np.mean([target_of(one.counts).mean(axis=0) for one in drawn], axis=0), kind="stable")[:120]
    return model, drawn, counts, panel


def truth(drawn, panel, *, law):
    """Within-slide Pearson of target and its expectation under a law, mean over slides, per gene of the panel."""
    by_slide = [pearson(target_of(one.counts), law(one)) for one in drawn]
    return np.mean(by_slide, axis=0)[panel]


def test_the_ceiling_of_the_synthetic_cohort_is_that_of_who_knows_the_rates(cohort):
    _, drawn, counts, panel = cohort
    rng = np.random.default_rng(5)
    known = truth(drawn, panel, law=lambda one: expected_target(one.rate, rng=rng, draws=60))

    estimated = counting_ceiling(counts, panel, target=CP10K)

    assert 0.6 < known.mean() < 0.9  # neither at its floor nor at one, where anything would agree
    assert estimated.mean() == pytest.approx(known.mean(), abs=PANEL_TOLERANCE)
    assert np.sqrt(np.mean((estimated - known) ** 2)) < GENE_TOLERANCE
    assert np.corrcoef(estimated, known)[0, 1] > 0.9


def test_the_rates_that_the_generator_states_are_those_it_drew_from(cohort):
    model, drawn, _, _ = cohort
    counts, rate, mean = (np.concatenate([getattr(one, name) for one in drawn]) for name in ("counts", "rate", "mean"))

    poisson = (counts - rate) / np.sqrt(rate)
    gamma = (rate / mean - 1) / np.sqrt(model.dispersion)

    # Some 125,000 values of mean 0 and variance 1 each.
    for z in (poisson[rate > 1], gamma):
        assert abs(z.mean()) < 0.02
        assert (z**2).mean() == pytest.approx(1.0, abs=0.05)


def test_other_genes_come_close_to_who_knows_the_tissue_and_not_above(cohort):
    model, drawn, counts, panel = cohort
    rng = np.random.default_rng(6)
    known = truth(
        drawn, panel, law=lambda one: expected_target(one.mean, rng=rng, dispersion=model.dispersion, draws=60)
    )

    reached = from_other_genes(CP10K(counts, panel), counts.slide)
    ceiling = counting_ceiling(counts, panel, target=CP10K)

    assert known.mean() - 0.12 < reached.mean() < known.mean() + 0.01
    # The noise that no count shows lies between the two lines, as the report says.
    assert reached.mean() < known.mean() < ceiling.mean() - 0.2


def test_without_noise_but_that_of_counting_the_ceiling_is_the_explainable_variance():
    _, drawn = synthetic(slides=3, dispersion_factor=1e-6, seed=1)
    counts = spot_counts(
        np.concatenate([one.counts for one in drawn]), np.repeat(np.arange(3), [len(one.counts) for one in drawn])
    )
    level = np.mean([target_of(one.counts).mean(axis=0) for one in drawn], axis=0)
    panel = np.argsort(-level, kind="stable")[:100]
    stated = np.sqrt(np.mean([one.explainable for one in drawn], axis=0))[panel]

    estimated = counting_ceiling(counts, panel, target=CP10K)

    assert estimated.mean() == pytest.approx(stated.mean(), abs=PANEL_TOLERANCE)


@pytest.mark.parametrize("depth", [300, 10_000])
def test_the_ceiling_holds_at_every_depth(depth):
    rng = np.random.default_rng(depth)
    n, n_genes = 1200, 80
    level = rng.normal(0, 1, n_genes)
    share = np.exp(level + 0.5 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, n_genes)))
    rate = depth * rng.lognormal(0, 0.3, (n, 1)) * share / share.sum(axis=1, keepdims=True)
    counts = rng.poisson(rate)
    slide = np.repeat(np.arange(4), n // 4)
    expected = expected_target(rate, rng=rng, draws=60)
    known = np.mean([pearson(target_of(counts)[slide == s], expected[slide == s]) for s in range(4)], axis=0)

    estimated = counting_ceiling(spot_counts(counts, slide), np.arange(n_genes), target=CP10K)

    assert estimated.mean() == pytest.approx(known.mean(), abs=PANEL_TOLERANCE)


def test_counts_without_structure_have_hardly_a_ceiling_and_constants_none():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, size=(2000, 40))
    counts[:, 7] = 0
    depth = np.full(2000, 1000.0)

    estimated = counting_ceiling(spot_counts(counts, np.zeros(2000, int), depth), np.arange(40), target=CP10K)

    assert np.isnan(estimated[7])
    assert np.nanmean(estimated) < 0.15  # the root of what chance leaves of 0
    assert np.nanmin(estimated) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_halves_add_up_to_the_counts_and_outside_counts_are_split_alike(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, size=(9, 6))
    depth = counts.sum(axis=1) + rng.integers(0, 50, 9)

    one, two = thinned(spot_counts(counts, np.zeros(9, int), depth), rng)

    np.testing.assert_array_equal((one.matrix + two.matrix).toarray(), counts)
    np.testing.assert_array_equal(one.depth + two.depth, depth)
    assert (one.depth >= one.matrix.toarray().sum(axis=1)).all()


def test_odds_that_double_are_carried_as_spearman_and_brown_do():
    quarter = np.linspace(0.1, 3.0, 90)
    np.testing.assert_allclose(growth_of_odds(2 * quarter, quarter), 2.0)
    np.testing.assert_allclose(growth_of_odds(9 * quarter, quarter), 4.0)  # no more than the square
    np.testing.assert_allclose(growth_of_odds(-quarter, -quarter), 2.0)  # nothing to measure it by


def test_ridge_on_the_other_genes_is_scikit_learns():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    values -= values.mean(axis=0)

    coefficients = leave_one_gene_out(values.T @ values / 60, 0.3)

    for gene in range(7):
        others = np.delete(np.arange(7), gene)
        ridge = Ridge(alpha=0.3 * 60, fit_intercept=False, solver="cholesky").fit(values[:, others], values[:, gene])
        np.testing.assert_allclose(coefficients[others, gene], ridge.coef_, atol=1e-10)
        assert coefficients[gene, gene] == 0.0


def test_a_gene_that_others_tell_is_told_and_a_lonely_one_is_not():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(400, 1))
    values = np.c_[shared + 0.1 * rng.normal(size=(400, 5)), rng.normal(size=(400, 1))]

    reached = from_other_genes(values, np.repeat(np.arange(4), 100))

    assert reached[:5].min() > 0.98
    assert abs(reached[5]) < 0.15
    assert np.isnan(from_other_genes(values, np.zeros(400, int))).all()
    assert np.isnan(from_other_genes(values[:, :1], np.repeat(np.arange(4), 100))).all()


def test_a_protocols_line_weighs_test_slides_and_each_folds_own_genes(cohort):
    _, _, counts, panel = cohort
    genes = [str(counts.genes[i]) for i in panel[:30]]
    folds = [ScoredPanel(tuple(genes[:20]), 1), ScoredPanel(tuple(genes[10:]), 2)]

    line = protocol_ceiling("strict", counts, folds, target=CP10K)

    assert line.genes == tuple(genes)
    by_hand = (line.counting[:20].mean() + 2 * line.counting[10:].mean()) / 3
    assert line.counting_mean == pytest.approx(by_hand, abs=1e-12)
    assert line.other_genes_mean == pytest.approx(
        (line.other_genes[:20].mean() + 2 * line.other_genes[10:].mean()) / 3, abs=1e-12
    )


def test_counts_that_are_not_whole_have_no_ceiling():
    rng = np.random.default_rng(4)
    counts = rng.poisson(5.0, size=(40, 5)) + 0.5
    own = spot_counts(counts, np.repeat([0, 1], 20))

    with pytest.raises(ProtocolError, match=r"must be whole numbers to be thinned; 200 are not, such as \d+\.5"):
        counting_ceiling(own, np.arange(5), target=CP10K)
    line = protocol_ceiling("strict", own, [ScoredPanel(("g0", "g1", "g2"), 2)], target=CP10K)
    assert not line.defined
    assert np.isfinite(line.other_genes).all()
