from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial.distance import cdist

from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.panels.panels import heg_ranking
from tissuary.heads.protocols.panels.rules import PANEL_RULES, get_panel_rule
from tissuary.store.errors import CohortError, MissingDependencyError, ProtocolError

SLIDES, SPOTS = (5, 1, 9), (40, 25, 50)


def made_up(seed, *, n_genes=60):
    """Three slides of unlike size and level at scattered places, with counts of genes that the others lack."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(SLIDES, SPOTS)
    center_um = rng.uniform(0, 1000, (len(slide), 2))
    level = rng.gamma(1.0, 4.0, n_genes) * rng.uniform(0.5, 2.0, (3, n_genes))[np.searchsorted([1, 5, 9], slide)]
    level *= 1 + np.sin(center_um[:, :1] / 150 + np.arange(n_genes)) * rng.uniform(0, 1, n_genes)
    counts = rng.negative_binomial(2, 2 / (2 + level)).astype(np.float32)
    genes = np.array([f"g{name:03d}" for name in rng.permutation(n_genes)])
    depth = counts.sum(axis=1, dtype=np.float64) + rng.integers(0, 30, len(slide))
    return SpotCounts(sparse.csr_matrix(counts), genes, depth, slide, center_um)


def cp10k(counts):
    return np.log1p(1e4 * counts.matrix.toarray().astype(np.float64) / counts.depth[:, None])


def in_another_order(counts, seed):
    """The same spots, slides and genes in other orders and under other numbers."""
    rng = np.random.default_rng(seed)
    spots, genes = rng.permutation(len(counts)), rng.permutation(len(counts.genes))
    number = dict(zip(SLIDES, rng.permutation(20)[: len(SLIDES)].tolist(), strict=True))
    return SpotCounts(
        sparse.csr_matrix(counts.matrix[spots][:, genes]),
        counts.genes[genes],
        counts.depth[spots],
        np.array([number[one] for one in counts.slide[spots].tolist()]),
        counts.center_um[spots],
    )


# Not hvg-seurat-v3, whose scikit-misc is no dependency.
@pytest.mark.parametrize("name", ["heg", "hvg", "svg", "hest", "mmap", "m2ort", "cmrc"])
@given(st.integers(0, 10_000))
@settings(max_examples=3, deadline=None)
def test_a_panel_does_not_depend_on_the_order_of_spots_slides_or_genes(name, seed):
    counts, rule = made_up(0, n_genes=150), PANEL_RULES[name]
    other = in_another_order(counts, seed)
    chosen = rule.choose(counts, 20)
    assert counts.genes[chosen].tolist() == other.genes[rule.choose(other, 20)].tolist()
    assert len(set(chosen.tolist())) == len(chosen) > 0


@pytest.mark.parametrize("name", ["heg", "nh2st"])
def test_the_highest_mean_over_slides_of_the_slides_mean(name):
    counts = made_up(0)
    y = cp10k(counts)
    mean = np.mean([y[counts.slide == slide].mean(axis=0) for slide in SLIDES], axis=0)
    expected = sorted(range(60), key=lambda gene: (-mean[gene], counts.genes[gene]))
    assert get_panel_rule(name).choose(counts, 15).tolist() == expected[:15]
    assert get_panel_rule(name).choose(counts).tolist() == expected  # 250 are wanted, 60 are there


def test_genes_of_equal_mean_go_by_name():
    two = SpotCounts(
        sparse.csr_matrix(np.full((3, 3), 2.0)), np.array(["b", "c", "a"]), np.full(3, 6.0), np.zeros(3, int), None
    )
    assert two.genes[PANEL_RULES["heg"].choose(two, 3)].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["heg", "svg"])
def test_scores_of_slides_serve_every_fold(name):
    counts, rule = made_up(1), PANEL_RULES[name]
    scores = rule.slide_scores(counts)  # rows: slides 1, 5, 9
    assert scores.shape == (3, 60)
    for kept, rows in (((5, 1), [0, 1]), ((9,), [2])):
        training = counts.select_slides(kept)
        assert rule.choose(training, 12).tolist() == heg_ranking(scores[rows], counts.genes)[:12].tolist()


def scanpys_dispersions(counts):
    """Scanpy's normalised dispersions of each slide, genes that are not expressed there left out as it does."""
    import anndata
    import scanpy

    y = cp10k(counts)
    for one in SLIDES:
        here = y[counts.slide == one]
        seen = here.any(axis=0)
        table = anndata.AnnData(here[:, seen], var={"var_names": counts.genes[seen].tolist()})
        found = scanpy.pp.highly_variable_genes(table, flavor="seurat", inplace=False)
        yield np.flatnonzero(seen), found["dispersions_norm"].to_numpy()


def test_hvg_is_scanpys_choice_ties_by_name():
    """Pairs of genes are alone in a bin, 1 / sqrt(2) from its mean: equal, but for the processor's last digit."""
    counts = made_up(2)
    votes, total, at_the_cut = np.zeros(60), np.zeros(60), 0
    for seen, dispersion in scanpys_dispersions(counts):
        last = np.sort(dispersion)[-20] - 1e-9
        votes[seen] += dispersion >= last
        total[seen] += dispersion
        at_the_cut += np.isclose(dispersion, last, rtol=0, atol=2e-9).sum() > 1
    rank = sorted(range(60), key=lambda gene: (-votes[gene], -round(total[gene] / 3, 9), counts.genes[gene]))
    assert PANEL_RULES["hvg"].choose(counts, 20).tolist() == rank[:20]
    assert at_the_cut == 3  # on every slide two genes or more share its last place


@pytest.mark.parametrize("name", ["hvg", "cmrc", "mmap"])
def test_the_last_digit_chooses_no_gene(name, monkeypatch):
    """Counts that are off by an ulp in eight, as another order of adding leaves them."""
    from tissuary.heads.protocols.panels import panels as ranked_panels
    from tissuary.heads.protocols.panels import rules as paper_panels

    counts = made_up(2)
    chosen = PANEL_RULES[name].choose(counts, 20).tolist()

    def jittered(expression, **_):
        noise = np.random.default_rng(0).integers(-8, 9, len(expression.data))
        return sparse.csr_matrix(
            (expression.data * (1 + noise * 2.0**-52), expression.indices, expression.indptr), expression.shape
        )

    module, function = (paper_panels, "median_log1p") if name == "cmrc" else (ranked_panels, "cp10k_log1p")
    transform = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *given, **named: jittered(transform(*given, **named)))
    assert PANEL_RULES[name].choose(counts, 20).tolist() == chosen


def test_a_gene_that_is_constant_on_a_slide_is_passed_over_there():
    """Its variance is rounding, whose logarithm would move every gene of its bin."""
    counts = replace(made_up(2), depth=np.full(115, 1000.0))
    chosen = []
    for level in (0, 7):
        matrix = counts.matrix.toarray()
        matrix[counts.slide == 9, 7] = level
        found = PANEL_RULES["hvg"].choose(replace(counts, matrix=sparse.csr_matrix(matrix)), 30)
        chosen.append([gene for gene in found.tolist() if gene != 7][:29])
    assert chosen[0] == chosen[1]


def test_hvg_passes_over_slides_on_which_nothing_varies():
    counts = made_up(3)
    alone = SpotCounts(
        sparse.vstack([counts.matrix, counts.matrix[:1], sparse.csr_matrix((4, 60))]).tocsr(),
        counts.genes,
        np.concatenate([counts.depth, counts.depth[:1], np.zeros(4)]),
        np.concatenate([counts.slide, [70], [80] * 4]),
        np.zeros((len(counts) + 5, 2)),
    )
    for name in ("hvg", "cmrc"):
        assert PANEL_RULES[name].choose(alone, 20).tolist() == PANEL_RULES[name].choose(counts, 20).tolist()
        with pytest.raises(ProtocolError, match="No slide has two spots that differ"):
            PANEL_RULES[name].choose(alone.select_slides([70, 80]), 20)


def test_genes_that_are_all_alike_have_no_dispersion():
    alike = SpotCounts(
        sparse.csr_matrix(np.eye(9) * 3),
        np.array([f"g{i}" for i in range(9)]),
        np.full(9, 3.0),
        np.zeros(9, int),
        np.zeros((9, 2)),
    )
    with pytest.raises(ProtocolError, match="Scanpy finds no dispersion on a slide"):
        PANEL_RULES["hvg"].choose(alike, 5)


def morans_by_hand(values, center_um):
    """Six nearest spots, each row of weights summing to one."""
    away = cdist(center_um, center_um)
    np.fill_diagonal(away, np.inf)
    nearest = np.argsort(away, axis=1)[:, :6]
    z = values - values.mean()
    return sum(z[i] * z[nearest[i]].mean() for i in range(len(z))) / (z @ z)


def test_spatially_variable_genes_by_hand():
    counts = made_up(4)
    dense = counts.matrix.toarray()
    dense[counts.slide == 5, 7] = 0  # constant on one slide: no pattern there
    counts = replace(counts, matrix=sparse.csr_matrix(dense))
    y = cp10k(counts)
    scores = np.zeros((3, 60))
    for row, slide in zip(scores, SLIDES, strict=True):
        here = counts.slide == slide
        row[:] = [morans_by_hand(y[here, g], counts.center_um[here]) if np.ptp(y[here, g]) else 0 for g in range(60)]
    mean = scores.mean(axis=0)
    chosen = PANEL_RULES["svg"].choose(counts, 60)
    assert chosen.tolist() == np.argsort(-mean).tolist()
    np.testing.assert_allclose(PANEL_RULES["svg"].slide_scores(counts), scores[[1, 0, 2]], rtol=0, atol=1e-10)
    assert mean[chosen[0]] > 0.2 > mean[chosen[-1]]


def test_a_slide_of_one_spot_shows_no_pattern():
    counts = made_up(4)
    one = counts.select_slides([1])
    lone = SpotCounts(one.matrix[:1], one.genes, one.depth[:1], np.array([3]), one.center_um[:1])
    assert PANEL_RULES["svg"].slide_scores(lone).tolist() == [[0.0] * 60]


def test_seurat_v3_is_scanpys_choice():
    pytest.importorskip("skmisc", reason="scanpy's seurat_v3 needs scikit-misc")
    import anndata
    import scanpy

    counts = made_up(5)
    table = anndata.AnnData(counts.matrix.toarray(), var={"var_names": counts.genes.tolist()})
    table.obs["slide"] = [f"slide-{one}" for one in counts.slide]
    table = table[:, sorted(table.var_names)].copy()  # scanpy takes the first column of a tie
    scanpy.pp.highly_variable_genes(table, flavor="seurat_v3", batch_key="slide", n_top_genes=20)
    chosen = table.var[table.var["highly_variable"]]
    found = counts.genes[PANEL_RULES["hvg-seurat-v3"].choose(counts, 20)].tolist()
    assert sorted(found) == chosen.index.tolist()
    assert np.all(np.diff(chosen.loc[found, "highly_variable_rank"]) >= 0)
    few = replace(counts, matrix=counts.matrix[:, :19], genes=counts.genes[:19])
    with pytest.raises(ProtocolError, match="19 genes vary on slide 1, too few for a loess"):
        PANEL_RULES["hvg-seurat-v3"].choose(few, 5)
    alike = replace(counts, matrix=sparse.csr_matrix(np.repeat(counts.matrix[:, :1].toarray(), 60, axis=1)))
    with pytest.raises(ProtocolError, match="loess of variance on mean failed"):
        PANEL_RULES["hvg-seurat-v3"].choose(alike, 5)


def test_seurat_v3_names_what_is_missing(monkeypatch):
    monkeypatch.setattr("tissuary.heads.protocols.panels.variable_genes.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install scikit-misc"):
        PANEL_RULES["hvg-seurat-v3"].choose(made_up(5), 20)


def test_what_no_rule_can_choose_from_is_refused():
    counts, rule = made_up(6), PANEL_RULES["heg"]
    with pytest.raises(ProtocolError, match="at least one gene; 0 were asked for"):
        rule.choose(counts, 0)
    none = SpotCounts(counts.matrix[:0], counts.genes, counts.depth[:0], counts.slide[:0], counts.center_um[:0])
    with pytest.raises(ProtocolError, match="no spots to choose a panel from"):
        rule.choose(none)
    with pytest.raises(CohortError, match="Gene 'g000' is named 60 times"):
        rule.choose(replace(counts, genes=np.array(["g000"] * 60)))
    with pytest.raises(CohortError, match="Counts must be finite and not negative"):
        rule.choose(replace(counts, matrix=-counts.matrix))
    with pytest.raises(ProtocolError, match="no panel rule 'top'; choose one of: heg, hvg, hvg-seurat-v3, svg, hest"):
        get_panel_rule("top")
