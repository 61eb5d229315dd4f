"""The field's protocols, against numbers composed here from the reference alone."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from tissuary.heads import CompareOptions, compare
from tissuary.heads.comparison.head_spec import HeadSpec
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.protocols.changes import with_panel
from tissuary.heads.protocols.named import PROTOCOLS, get_protocol
from tissuary.heads.protocols.splits import outer_folds
from tissuary.store.errors import ProtocolError

pytestmark = pytest.mark.usefixtures("few_draws")

SLIDES = {f"{p}{i}": (p, 40 + i) for p in "ABC" for i in range(2)}
PAPERS = [name for name in PROTOCOLS if not name.startswith("strict")]


@pytest.fixture
def store(make_store):
    return make_store(SLIDES, dim=24, n_genes=80)


def folds_of(store, protocol):
    table = store.table("toy@20x", control_keys=["haematoxylin@20x"])
    return table, prepare_cohort(table, protocol), outer_folds(protocol, table.slide_ids, table.patient_ids)


@pytest.mark.parametrize("name", ["hest-bench/a1", "hest-bench/a2"])
def test_hest_is_scikit_learns_own_probe(store, name):
    torch.set_num_threads(1)
    protocol = get_protocol(name)
    table, cohort, folds = folds_of(store, protocol)
    x, counts = table.columns["toy@20x"].gather(table.slide, table.row), table.counts.toarray().astype(np.float64)
    for fold in folds:
        prepared = prepare(cohort, fold, protocol)
        assert len(prepared.panel.genes) == 50
        head = HeadSpec("ridge", "hest").make(seed=1).fit(prepared.train)
        ours = head.predict(prepared.test).astype(np.float64)
        train, test = (np.isin(table.slide, slides) for slides in (fold.train, fold.test))
        genes = [table.genes.tolist().index(gene) for gene in prepared.panel.genes]
        y_train, y_test = np.log1p(counts[train][:, genes]), np.log1p(counts[test][:, genes])
        a, b = x[train], x[test]
        if name.endswith("a1"):
            scaler = StandardScaler().fit(a)
            pca = PCA(n_components=24, random_state=1)
            learnt = pca.fit_transform(scaler.transform(a))
            a, b = torch.Tensor(learnt), torch.Tensor(pca.transform(scaler.transform(b)))
        alpha = 100 / (24 * 50)
        probe = Ridge(solver="lsqr", alpha=alpha, fit_intercept=False, max_iter=1000, random_state=1)
        theirs = probe.fit(a, y_train).predict(b)
        for g in range(50):
            assert pearsonr(ours[:, g], y_test[:, g])[0] == pytest.approx(
                pearsonr(theirs[:, g], y_test[:, g])[0], abs=1e-6
            )
        np.testing.assert_allclose(prepared.truth, y_test, rtol=1e-6)


def test_m2orts_mean_controls_are_ten_lines_of_numpy(make_store):
    store = make_store({f"{p}{i}": (p, 30) for p in "ABCDE" for i in range(2)}, n_genes=60)
    found = compare(store, options=CompareOptions(heads=("ridge",), protocols=("m2ort-paper",), panel_size=40))
    by_head = {r["head"]: r for r in found.records if r["fold"] == "all"}
    protocol = with_panel(get_protocol("m2ort-paper"), size=40)
    table, cohort, (fold,) = folds_of(store, protocol)
    genes = prepare(cohort, fold, protocol).panel.index
    assert len(genes) == 40
    counts = table.counts.toarray()[:, genes].astype(float)
    y = np.log1p(1e6 * counts / counts.sum(1, keepdims=True))
    of = np.array(table.patient_ids)[table.slide]
    profile = {s: y[table.slide == s].mean(0) for s in fold.train}
    for name in ("mean", "patient-mean"):
        pearson, rmse = [], []
        for spot in np.flatnonzero(np.isin(table.slide, fold.test)):
            own = [profile[s] for s in fold.train if name == "mean" or table.patient_ids[s] == of[spot]]
            guess = np.mean(own or list(profile.values()), axis=0)
            pearson.append(pearsonr(guess, y[spot])[0])
            rmse.append(np.sqrt(np.mean((guess - y[spot]) ** 2)))
        assert by_head[name]["pcc_spot"] == pytest.approx(np.mean(pearson), abs=1e-5)
        assert by_head[name]["rmse_spot"] == pytest.approx(np.mean(rmse), abs=1e-4)


def test_nh2st_smooths_truth_over_the_array_and_scores_its_oracle(store):
    protocol = get_protocol("nh2st-paper")
    table, cohort, folds = folds_of(store, protocol)
    prepared = prepare(cohort, folds[0], protocol)
    counts = table.counts.toarray()[:, prepared.panel.index].astype(float)
    y = np.log10(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    rows = np.flatnonzero(np.isin(table.slide, folds[0].test))
    array, slide = table.array[rows], table.slide[rows]
    middle = int(np.flatnonzero((array == [2, 2]).all(1))[0])
    near = (np.abs(array - array[middle]).max(1) <= 1) & (slide == slide[middle])
    assert near.sum() == 9
    np.testing.assert_allclose(prepared.truth[middle], y[rows][near].mean(0), rtol=1e-5)


def test_hest_leaks_its_genes_and_strict_does_not(store):
    """The genes of a fold under HEST's rule are those of all slides; under `strict` they change with the fold."""
    protocol = get_protocol("hest-bench/a1")
    _, cohort, folds = folds_of(store, protocol)
    assert len({tuple(prepare(cohort, fold, protocol).panel.genes) for fold in folds}) == 1
    protocol = with_panel(get_protocol("strict"), size=20)
    _, cohort, folds = folds_of(store, protocol)
    assert len({tuple(sorted(prepare(cohort, fold, protocol).panel.genes)) for fold in folds}) > 1


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_ranks_by_a_score_that_is_in_the_records(store, name):
    found = compare(store, options=CompareOptions(heads=("ridge",), protocols=(name,)))
    protocol = get_protocol(name)
    ridge = [r for r in found.records if (r["head"], r["mode"], r["fold"]) == ("ridge", "default", "all")]
    assert np.isfinite(ridge[0][protocol.score])
    assert protocol.leaks
    assert protocol.adapted
    modes = {r["mode"] for r in found.records if r["head"] == "ridge"}
    assert modes == {"default"} | {mode for _, mode in protocol.modes}
    assert not found.skipped


def test_a_list_of_genes_takes_the_place_of_the_rule(store, caplog):
    names = ("gene3", "gene7", "gene11", "nogene")
    found = compare(store, options=CompareOptions(heads=("ridge",), panel=names))
    assert {(r["panel"], r["panel_size"]) for r in found.records} == {("list of 4", 3)}
    assert "nogene" in caplog.text
    with pytest.raises(ProtocolError, match="ask for at least one"):
        compare(store, options=CompareOptions(heads=("ridge",), panel_size=0))
    with pytest.raises(ProtocolError, match="no panel rule 'best'"):
        compare(store, options=CompareOptions(heads=("ridge",), panel="best"))
