from math import log

import numpy as np
import pytest
from scipy import sparse

from tissuary.heads.protocols.targets import centre_by_slide, cp10k_log1p, depth, median_depth, slide_mean, spot_weights
from tissuary.store.errors import CohortError

COUNTS = sparse.csr_matrix(np.array([[1, 0, 3], [0, 0, 0], [0, 5, 5]], dtype=np.float32))


def random_counts(seed, n=40, g=30):
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.6, 3.0, size=(n, g))).astype(np.float32)


def test_log1p_cp10k_by_hand_with_zeros_for_an_empty_spot():
    expected = [[log(2501), 0, log(7501)], [0, 0, 0], [0, log(5001), log(5001)]]
    target = cp10k_log1p(COUNTS)
    assert target.dtype == np.float64
    np.testing.assert_allclose(target.toarray(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("genes", [np.array([2, 0]), np.array([True, False, True])])
def test_a_panel_keeps_the_total_over_all_genes(genes):
    np.testing.assert_array_equal(cp10k_log1p(COUNTS, genes=genes).toarray(), cp10k_log1p(COUNTS).toarray()[:, genes])


def test_counts_of_some_genes_come_with_their_spots_totals():
    some = COUNTS[:, [2, 0]]
    given = cp10k_log1p(some, total=depth(COUNTS))
    np.testing.assert_array_equal(given.toarray(), cp10k_log1p(COUNTS).toarray()[:, [2, 0]])
    for wrong in (np.array([4.0]), np.array([4.0, 0, 4])):
        with pytest.raises(CohortError, match="total over all measured genes"):
            cp10k_log1p(some, total=wrong)


def test_it_is_scanpys_normalisation():
    import anndata
    import scanpy

    counts = random_counts(0)
    table = anndata.AnnData(counts.astype(np.float64))
    scanpy.pp.normalize_total(table, target_sum=1e4)
    scanpy.pp.log1p(table)
    np.testing.assert_allclose(cp10k_log1p(sparse.csr_matrix(counts)).toarray(), table.X, rtol=0, atol=1e-10)


def test_counts_are_left_as_they_came_and_duplicate_entries_add_up():
    duplicated = sparse.csr_matrix((np.float32([2, 1, 3]), [0, 0, 1], [0, 3]), shape=(1, 2))
    np.testing.assert_allclose(cp10k_log1p(duplicated).toarray(), [[log(5001), log(5001)]], rtol=1e-12)
    assert duplicated.data.tolist() == [2, 1, 3]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_not_a_count_is_refused(bad):
    with pytest.raises(CohortError, match="Counts must be finite and not negative"):
        cp10k_log1p(sparse.csr_matrix(np.array([[1.0, bad]])))


def test_depth_weighs_half_at_the_median():
    totals = depth(COUNTS)
    assert totals.tolist() == [4, 0, 10]
    assert median_depth(totals) == 4
    np.testing.assert_allclose(spot_weights(totals, 4), [0.5, 0, 10 / 14], rtol=1e-15)
    assert spot_weights(totals, 0).tolist() == [1, 0, 1]
    with pytest.raises(CohortError, match="zero or more; it is -1"):
        spot_weights(totals, -1)


def test_slide_means_and_centring_by_hand():
    values = np.array([[1.0, 10], [5, 0], [3, 30]])
    slide = np.array([7, 2, 7])
    slides, means = slide_mean(values, slide)
    assert slides.tolist() == [2, 7]
    assert means.tolist() == [[5, 0], [2, 20]]
    assert slide_mean(sparse.csr_matrix(values), slide)[1].tolist() == means.tolist()
    assert centre_by_slide(values, slide).tolist() == [[-1, -10], [0, 0], [1, 10]]


def test_centred_values_have_no_slide_mean():
    rng = np.random.default_rng(1)
    values, slide = rng.normal(5, 2, (50, 4)).astype(np.float32), rng.integers(0, 6, 50)
    centred = centre_by_slide(values, slide)
    assert centred.dtype == np.float64
    np.testing.assert_allclose(slide_mean(centred, slide)[1], 0, atol=1e-12)
