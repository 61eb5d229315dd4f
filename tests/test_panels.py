import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from tissuary.heads.protocols.panels.panels import heg_ranking, heg_within, hvg_within
from tissuary.heads.protocols.targets import cp10k_log1p
from tissuary.store.errors import MissingDependencyError, ProtocolError


def names(text):
    return np.array(text.split())


def test_every_slide_counts_the_same_and_ties_go_by_name():
    means = np.array([[1.0, 3, 4, 0], [3.0, 3, 0, 5]])  # on average 2, 3, 2, 2.5
    assert heg_ranking(means, names("a b c d")).tolist() == [1, 3, 0, 2]
    assert heg_ranking(means, names("c b a d")).tolist() == [1, 3, 2, 0]


def test_the_ranking_is_of_slide_means_not_of_spots():
    # Gene 0 is high on a slide of many spots, gene 1 on a slide of one spot.
    counts = sparse.csr_matrix(np.array([[6.0, 4]] * 9 + [[1.0, 9]]))
    target = cp10k_log1p(counts).toarray()
    by_slide = np.stack([target[:9].mean(axis=0), target[9:].mean(axis=0)])
    assert target.mean(axis=0).argmax() == 0
    assert heg_ranking(by_slide, names("a b")).tolist() == [1, 0]


@given(st.permutations(range(6)))
def test_the_panel_does_not_depend_on_gene_order(order):
    means = np.array([[0.1, 0.9, 0.4, 0.3, 0.8, 0.2], [0.2, 0.7, 0.6, 0.3, 0.9, 0.1]])
    genes = names("a b c d e f")
    assert genes[order][heg_ranking(means[:, order], genes[order])][:3].tolist() == ["e", "b", "c"]


def test_the_highest_of_a_panel_that_was_ranked_otherwise():
    means = np.array([[0.1, 0.9, 0.4, 0.3], [0.3, 0.7, 0.4, 0.3]])  # on average 0.2, 0.8, 0.4, 0.3
    assert heg_within(means, names("a b c d"), size=2).tolist() == [1, 2]
    assert heg_within(means[:, ::-1], names("d c b a"), size=2).tolist() == [1, 2]
    assert heg_within(means, names("a b c d")).tolist() == [0, 1, 2, 3]


def test_panels_refuse_what_they_cannot_rank():
    with pytest.raises(ProtocolError, match="2 columns of means came with 3 gene names"):
        heg_ranking(np.ones((1, 2)), names("a b c"))
    with pytest.raises(ProtocolError, match="1 genes have no finite mean"):
        heg_ranking(np.array([[1.0, np.nan]]), names("a b"))
    with pytest.raises(ProtocolError, match=r"\(n_slides, n_genes\)"):
        heg_ranking(np.ones(3), names("a b c"))


def training_expression(seed, *, n_genes=120):
    """Three slides of unlike size and level: raw counts, expression and slide of each spot."""
    rng = np.random.default_rng(seed)
    slide = np.repeat([5, 1, 9], [60, 25, 90])
    level = rng.gamma(1.0, 4.0, n_genes) * rng.uniform(0.5, 2.0, (3, n_genes))[np.searchsorted([1, 5, 9], slide)]
    counts = rng.negative_binomial(2, 2 / (2 + level)).astype(np.float64)
    return counts, cp10k_log1p(sparse.csr_matrix(counts)).toarray(), slide


@pytest.mark.parametrize("seed", [0, 1])
def test_hvg_is_scanpys_choice(seed):
    import anndata
    import scanpy

    counts, expression, slide = training_expression(seed)
    table = anndata.AnnData(counts.copy())
    table.obs["slide"] = [f"slide-{one}" for one in slide]
    scanpy.pp.normalize_total(table, target_sum=1e4)
    scanpy.pp.log1p(table)
    scanpy.pp.highly_variable_genes(table, flavor="seurat", batch_key="slide", n_top_genes=50)
    chosen = hvg_within(expression, slide)
    assert chosen.tolist() == np.flatnonzero(table.var["highly_variable"]).tolist()
    assert len(chosen) == 50


def test_hvg_of_a_small_panel_is_all_of_it():
    assert hvg_within(np.zeros((1, 50)), np.array([0])).tolist() == list(range(50))


def test_hvg_leaves_out_slides_on_which_nothing_varies():
    _, expression, slide = training_expression(2)
    lone = np.vstack([expression, expression[:1], np.zeros((3, expression.shape[1]))])
    chosen = hvg_within(lone, np.concatenate([slide, [100], [200] * 3]))
    assert chosen.tolist() == hvg_within(expression, slide).tolist()
    with pytest.raises(ProtocolError, match="No slide has two spots that differ"):
        hvg_within(expression[:1], slide[:1])


def test_hvg_of_a_slide_that_expresses_few_genes_is_quiet(recwarn):
    _, expression, slide = training_expression(3)
    expression[slide == 1, 30:] = 0
    assert len(hvg_within(expression, slide)) == 50
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_without_scanpy_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(MissingDependencyError, match="pip install scanpy"):
        hvg_within(np.eye(60), np.zeros(60, dtype=int))
