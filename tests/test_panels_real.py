"""Panels on HER2-positive breast sections, against scanpy composed anew."""

import numpy as np
import pytest
from scipy import sparse

from tissuary.featurize.sources.load import load_cohort
from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.panels.rules import PANEL_RULES
from tissuary.heads.protocols.targets import TARGET_RULES, smooth_3x3


@pytest.fixture(scope="module")
def sections(real_data):
    """Measured spots of B4 and C2 to C5."""
    return [sample.read_measured() for sample in load_cohort(real_data / "her2st", pitch_um=200).samples]


@pytest.fixture(scope="module")
def counts(sections):
    genes = np.array(sorted(set.intersection(*(set(one.genes.tolist()) for one in sections))))
    columns = [{gene: i for i, gene in enumerate(one.genes.tolist())} for one in sections]
    parts = [one.counts[:, [at[gene] for gene in genes.tolist()]] for one, at in zip(sections, columns, strict=True)]
    return SpotCounts(
        sparse.vstack(parts).tocsr(),
        genes,
        np.concatenate([np.asarray(one.counts.sum(axis=1), dtype=np.float64).ravel() for one in sections]),
        np.repeat(np.arange(len(sections)), [one.counts.shape[0] for one in sections]),
        np.concatenate([one.spots.center_px for one in sections]),
        np.concatenate([one.spots.array for one in sections]),
    )


def tables(sections):
    import anndata

    return [
        anndata.AnnData(one.counts.toarray().astype(np.float64), var={"var_names": one.genes.tolist()})
        for one in sections
    ]


def test_heg250_is_scanpys_normalisation_averaged_and_knows_the_amplicon(sections, counts):
    import scanpy

    means = []
    for table in tables(sections):
        scanpy.pp.normalize_total(table, target_sum=1e4)
        scanpy.pp.log1p(table)
        means.append(dict(zip(table.var_names, table.X.mean(axis=0).tolist(), strict=True)))
    mean = {gene: np.mean([one[gene] for one in means]) for gene in counts.genes.tolist()}
    chosen = counts.genes[PANEL_RULES["heg"].choose(counts)].tolist()
    assert chosen == sorted(mean, key=lambda gene: (-mean[gene], gene))[:250]
    assert "ERBB2" in chosen[:20]
    # Neighbours of ERBB2 on 17q12, amplified with it; stroma and plasma cells of these tumours.
    assert {"GRB7", "STARD3", "COL1A1", "IGKC", "ACTB"} <= set(chosen)


def test_hests_list_is_its_rule_composed_from_scanpy(sections, counts):
    import anndata
    import scanpy

    found = tables(sections)
    common = None
    for table in found:
        filtered = table.copy()
        scanpy.pp.filter_genes(filtered, min_cells=int(np.ceil(0.10 * table.n_obs)))
        common = set(filtered.var_names) if common is None else common & set(filtered.var_names)
    names = [gene for gene in sorted(common) if "BLANK" not in gene and "Control" not in gene]
    stacked = anndata.AnnData(
        np.vstack([table[:, names].X for table in found]).astype(np.float32), var={"var_names": names}
    )
    scanpy.pp.log1p(stacked)
    scanpy.pp.highly_variable_genes(stacked, n_top_genes=50)
    expected = stacked.var_names[stacked.var["highly_variable"]][:50].tolist()
    assert counts.genes[PANEL_RULES["hest"].choose(counts)].tolist() == expected
    assert len(expected) == 50


def test_mmaps_cut_leaves_about_as_many_genes_as_on_all_36_sections(counts):
    assert 650 < len(PANEL_RULES["mmap"].choose(counts)) < 850  # 785 there, of 8 patients


def test_spatially_variable_genes_are_not_merely_the_high_ones(counts):
    spatial = set(counts.genes[PANEL_RULES["svg"].choose(counts, 100)].tolist())
    high = set(counts.genes[PANEL_RULES["heg"].choose(counts, 100)].tolist())
    assert {"IGKC", "FABP7"} <= spatial  # plasma cells gather; FABP7 marks single nests
    assert 20 < len(spatial & high) < 90


def test_smoothing_brings_neighbours_together_and_keeps_the_level(counts):
    panel = PANEL_RULES["heg"].choose(counts, 20)
    target = TARGET_RULES["log10-cp10k-panel"].function(counts, panel)
    smoothed = smooth_3x3(target, counts.array, counts.slide)
    for slide in range(5):
        here = counts.slide == slide
        assert (smoothed[here].std(axis=0) < target[here].std(axis=0)).all()
        np.testing.assert_allclose(smoothed[here].mean(axis=0), target[here].mean(axis=0), rtol=0.05)
