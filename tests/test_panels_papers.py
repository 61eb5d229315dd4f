import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.panels.rules import PANEL_RULES
from tissuary.store.errors import ProtocolError


def spot_counts(counts, genes, slide):
    matrix = sparse.csr_matrix(np.asarray(counts, dtype=np.float32))
    depth = np.asarray(counts, dtype=np.float64).sum(axis=1)
    return SpotCounts(matrix, np.asarray(genes, dtype=str), depth, np.asarray(slide), np.zeros((len(slide), 2)))


def made_up(seed, *, n_genes=150, n_spots=(40, 25, 60)):
    rng = np.random.default_rng(seed)
    slide = np.repeat([5, 1, 9], n_spots)
    level = rng.gamma(0.5, 4.0, n_genes) * rng.uniform(0.5, 2.0, (3, n_genes))[np.searchsorted([1, 5, 9], slide)]
    counts = rng.negative_binomial(2, 2 / (2 + level))
    found = spot_counts(counts, [f"g{name:03d}" for name in rng.permutation(n_genes)], slide)
    return replace(found, depth=found.depth + rng.integers(0, 400, len(slide)))  # of genes that other slides lack


def hest_composed_anew(counts, size):
    """The rule of reference/protocols.md step by step on data frames, one sample after the other."""
    import anndata
    import pandas
    import scanpy

    samples = [
        pandas.DataFrame(counts.matrix[counts.slide == one].toarray(), columns=counts.genes.tolist())
        for one in dict.fromkeys(counts.slide.tolist())
    ]
    common = None
    for sample in samples:
        table = anndata.AnnData(sample.set_index("spot" + sample.index.astype(str)))
        scanpy.pp.filter_genes(table, min_cells=int(np.ceil(0.10 * len(sample))))
        common = set(table.var_names) if common is None else common & set(table.var_names)
    common = [gene for gene in sorted(common) if "BLANK" not in gene and "Control" not in gene]
    stacked = pandas.concat([sample[common] for sample in samples], ignore_index=True)
    stacked = anndata.AnnData(stacked.set_index("spot" + stacked.index.astype(str)))
    stacked.X = np.array(stacked.X)  # pandas 3 lends its values for reading only, and scanpy writes into them
    scanpy.pp.log1p(stacked)
    scanpy.pp.highly_variable_genes(stacked, n_top_genes=size)
    return stacked.var_names[stacked.var["highly_variable"]][:size].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [10, 50])
def test_hests_genes_are_those_of_its_rule_composed_from_scanpy(seed, size):
    counts = made_up(seed)
    names = counts.genes.copy()
    names[:2] = ["BLANK_0001", "NegControlProbe_00"]
    counts = replace(counts, genes=names.astype(str))
    chosen = counts.genes[PANEL_RULES["hest"].choose(counts, size)].tolist()
    assert chosen == hest_composed_anew(counts, size)
    assert chosen == sorted(chosen)
    assert len(chosen) == size


def test_hest_wants_a_tenth_of_the_spots_of_every_slide():
    rng = np.random.default_rng(3)
    counts = rng.poisson(3.0, (41, 8)) + 1
    slide = np.repeat([0, 1], [20, 21])
    counts[2:20, 0] = 0  # seen in 2 of 20
    counts[1:20, 1] = 0  # seen in 1 of 20
    counts[22:, 2] = 0  # seen in 2 of 21, where 2.1 are wanted
    genes = ["two", "one", "short", "d", "e", "Control7", "myBLANK", "control"]
    table = spot_counts(counts, genes, slide)
    assert sorted(table.genes[PANEL_RULES["hest"].choose(table)]) == ["control", "d", "e", "two"]
    with pytest.raises(ProtocolError, match="No gene is seen in 10 % of the spots of every slide"):
        PANEL_RULES["hest"].choose(spot_counts(np.eye(41)[:, :8], genes, slide))


def test_m2ort_draws_from_genes_that_vary_on_every_slide():
    rng = np.random.default_rng(4)
    n_genes, slide = 1700, np.repeat([2, 7], [12, 15])
    counts = rng.poisson(rng.gamma(0.7, 6.0, n_genes), (27, n_genes))
    table = spot_counts(counts, [f"g{name:04d}" for name in rng.permutation(n_genes)], slide)
    top = []
    for one in (2, 7):
        spread = np.var(counts[slide == one].astype(np.float64), axis=0).round(9)  # equal ones must stay equal
        ranked = sorted(range(n_genes), key=lambda gene, spread=spread: (-spread[gene], table.genes[gene]))
        top.append({str(table.genes[gene]) for gene in ranked[:1500]})
    common = sorted(top[0] & top[1])
    assert 1300 <= len(common) < 1500
    expected = sorted(random.Random(1553).sample(common, 250))
    assert table.genes[PANEL_RULES["m2ort"].choose(table)].tolist() == expected
    assert table.genes[PANEL_RULES["m2ort"].choose(table, 5000)].tolist() == common


def test_m2ort_needs_a_gene_that_varies_everywhere():
    n = 3000  # each slide's 1,500 most variable are the other's constants
    counts = np.zeros((4, n))
    counts[0, :1500] = counts[2, 1500:] = 5
    table = spot_counts(counts, [f"g{i:04d}" for i in range(n)], [0, 0, 1, 1])
    with pytest.raises(ProtocolError, match="No gene is among the 1500 most variable of every slide"):
        PANEL_RULES["m2ort"].choose(table)


def test_mmap_cuts_genes_seen_in_few_of_the_spots():
    rng = np.random.default_rng(5)
    n = 1362  # a tenth of its cohort, so that 1,000 spots become 100
    counts = rng.poisson(rng.uniform(1, 30, 12), (n, 12))
    counts[:, 0] = counts[:, 1] = 0
    counts[rng.permutation(n)[:100], 0] = 40
    counts[rng.permutation(n)[:99], 1] = 40
    table = spot_counts(counts, [f"g{i:02d}" for i in range(12)], rng.permutation(np.repeat([0, 1], n // 2)))
    assert set(PANEL_RULES["hvg"].choose(table, 12)) == set(range(12))
    for size in (12, 3):
        variable = PANEL_RULES["hvg"].choose(table, size).tolist()
        assert PANEL_RULES["mmap"].choose(table, size).tolist() == [gene for gene in variable if gene != 1]
    pairs = np.kron(np.eye(20), np.ones((2, 2))) * rng.integers(1, 9, (40, 40))  # each gene in 2 of 40 spots
    rare = spot_counts(pairs, [f"g{i:02d}" for i in range(40)], np.zeros(40))
    with pytest.raises(ProtocolError, match=r"None of the 5 most variable genes is seen in 7\.3% of the spots"):
        PANEL_RULES["mmap"].choose(rare, 5)


@pytest.mark.parametrize("seed", [6, 7])
def test_cmrcs_genes_are_the_union_of_scanpys_slide_by_slide(seed):
    import anndata
    import scanpy

    counts = made_up(seed)
    union = set()
    for one in (5, 1, 9):
        dense = counts.matrix[counts.slide == one].toarray().astype(np.float64)
        table = anndata.AnnData(dense, var={"var_names": counts.genes.tolist()})
        scanpy.pp.normalize_total(table)
        scanpy.pp.log1p(table)
        scanpy.pp.highly_variable_genes(table, n_top_genes=20)
        union |= set(table.var_names[table.var["highly_variable"]])
    assert 20 < len(union) < 60
    assert counts.genes[PANEL_RULES["cmrc"].choose(counts, 20)].tolist() == sorted(union)


def test_sizes_are_those_of_the_sources():
    found = {name: rule.default_size for name, rule in PANEL_RULES.items()}
    assert {name: found[name] for name in ("heg", "hest", "m2ort", "nh2st", "mmap", "cmrc")} == {
        "heg": 250, "hest": 50, "m2ort": 250, "nh2st": 250, "mmap": 1000, "cmrc": 1000
    }  # fmt: skip
