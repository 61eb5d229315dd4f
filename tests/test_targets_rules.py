from dataclasses import replace
from math import log, log10

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.targets import TARGET_RULES, get_target_rule, seen_in_panel
from tissuary.store.errors import CohortError, ProtocolError

PANEL = np.array([2, 0])
BY_HAND = SpotCounts(
    sparse.csr_matrix(np.array([[1, 4, 3], [0, 7, 0], [0, 5, 5], [6, 0, 2]], dtype=np.float32)),
    np.array(["a", "b", "c"]),
    np.array([20.0, 7, 10, 16]),  # spots 0 and 3 have counts of genes that other slides lack
    np.array([4, 4, 4, 2]),
    np.zeros((4, 2)),
)
EXPECTED = {
    "log1p-raw": [[log(4), log(2)], [0, 0], [log(6), 0], [log(3), log(7)]],
    "log1p-cp10k": [[log(1501), log(501)], [0, 0], [log(5001), 0], [log(1251), log(3751)]],
    "log1p-cp10k-panel": [[log(7501), log(2501)], [0, 0], [log(10001), 0], [log(2501), log(7501)]],
    "ln-cpm-panel": [[log(750001), log(250001)], [0, 0], [log(1000001), 0], [log(250001), log(750001)]],
    "log10-cp10k-panel": [[log10(7501), log10(2501)], [0, 0], [log10(10001), 0], [log10(2501), log10(7501)]],
    "log1p-median": [[log(1 + 10 / 20 * 3), log(1 + 10 / 20)], [0, 0], [log(6), 0], [log(3), log(7)]],
}


def random_counts(seed, *, n_genes=30, extra=9):
    """Counts of shared genes, and the whole matrix with those that other slides lack."""
    rng = np.random.default_rng(seed)
    slide = np.repeat([3, 0, 8], [20, 11, 17])
    whole = rng.poisson(rng.gamma(0.6, 3.0, size=(len(slide), n_genes + extra))).astype(np.float64)
    whole[:6] = 0  # nothing was seen of them
    shared = sparse.csr_matrix(whole[:, :n_genes])
    genes = np.array([f"g{i}" for i in range(n_genes)])
    return SpotCounts(shared, genes, whole.sum(axis=1), slide, np.zeros((len(slide), 2))), whole


@pytest.mark.parametrize("name", TARGET_RULES)
def test_targets_by_hand(name):
    target = get_target_rule(name).function(BY_HAND, PANEL)
    assert target.dtype == np.float64
    np.testing.assert_allclose(target, EXPECTED[name], rtol=0, atol=1e-12)


def test_spots_without_a_count_in_the_panel_are_told_apart():
    assert seen_in_panel(BY_HAND, PANEL).tolist() == [True, False, True, True]
    assert [name for name, rule in TARGET_RULES.items() if rule.leaves_out_unseen] == ["ln-cpm-panel"]


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
@pytest.mark.parametrize(
    ("name", "total", "base"),
    [("log1p-cp10k-panel", 1e4, None), ("ln-cpm-panel", 1e6, None), ("log10-cp10k-panel", 1e4, 10)],
)
def test_library_sizes_over_the_panel_are_scanpys(name, total, base):
    import anndata
    import scanpy

    counts, _ = random_counts(0)
    panel = np.arange(25, 3, -2)
    table = anndata.AnnData(counts.matrix.toarray()[:, panel])
    scanpy.pp.normalize_total(table, target_sum=total)
    scanpy.pp.log1p(table, base=base)
    np.testing.assert_allclose(TARGET_RULES[name].function(counts, panel), table.X, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
def test_the_median_scale_is_scanpys_slide_by_slide():
    import anndata
    import scanpy

    counts, whole = random_counts(1)
    panel = np.array([4, 1, 20])
    expected = np.empty((len(counts), 3))
    for one in (3, 0, 8):
        table = anndata.AnnData(whole[counts.slide == one])
        scanpy.pp.normalize_total(table)
        scanpy.pp.log1p(table)
        expected[counts.slide == one] = table.X[:, panel]
    np.testing.assert_allclose(TARGET_RULES["log1p-median"].function(counts, panel), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TARGET_RULES)
def test_a_target_looks_at_no_other_slide(name):
    counts, _ = random_counts(2)
    panel = np.array([7, 2, 11])
    whole = TARGET_RULES[name].function(counts, panel)
    rows = np.concatenate([np.flatnonzero(counts.slide == one) for one in (8, 3)])
    np.testing.assert_array_equal(TARGET_RULES[name].function(counts.select_slides([8, 3]), panel), whole[rows])


@given(arrays(np.int64, (6, 5), elements=st.integers(0, 50)), st.lists(st.integers(1, 9), min_size=6, max_size=6))
@settings(deadline=None)
def test_counts_per_total_do_not_depend_on_depth(values, times):
    values[:, 0] += 1  # no spot is empty
    factor = np.array(times, dtype=np.float64)
    one = SpotCounts(sparse.csr_matrix(values), np.array(list("abcde")), values.sum(1) + 3.0, np.zeros(6), None)
    other = replace(one, matrix=sparse.csr_matrix(values * factor[:, None]), depth=one.depth * factor)
    panel = np.array([3, 0, 1])
    for name in ("log1p-cp10k", "log1p-cp10k-panel", "ln-cpm-panel", "log10-cp10k-panel"):
        rule = TARGET_RULES[name].function
        np.testing.assert_allclose(rule(other, panel), rule(one, panel), rtol=1e-12, atol=1e-12)
    totals = np.expm1(TARGET_RULES["ln-cpm-panel"].function(one, panel)).sum(axis=1)
    np.testing.assert_allclose(totals, 1e6, rtol=1e-9)


@pytest.mark.parametrize("name", TARGET_RULES)
def test_what_is_not_a_count_has_no_target(name):
    wrong = replace(BY_HAND, matrix=BY_HAND.matrix - sparse.csr_matrix(np.full((4, 3), 2.0)))
    with pytest.raises(CohortError, match="Counts must be finite and not negative"):
        TARGET_RULES[name].function(wrong, PANEL)


def test_an_unknown_rule_is_answered_with_those_there_are():
    with pytest.raises(ProtocolError, match="no target rule 'cpm'; choose one of: log1p-raw, log1p-cp10k, "):
        get_target_rule("cpm")
