"""Comparison end to end: same folds for all, nothing from test slides in training, records as documented."""

import json
from dataclasses import replace

import numpy as np
import polars
import pytest
from scipy.stats import pearsonr, ttest_1samp

from tissuary.heads import CompareOptions, compare
from tissuary.heads.comparison.comparison import Comparison
from tissuary.heads.comparison.inputs import feature_keys
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.comparison.results_file import write_results
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import outer_folds
from tissuary.heads.registry import HEADS
from tissuary.heads.report.report import write_report
from tissuary.store import Store
from tissuary.store.errors import MissingDependencyError, ProtocolError, StoreError
from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.schema import expression_path, features_path

pytestmark = pytest.mark.usefixtures("few_draws")

SLIDES = {f"{p}{i}": (p, 30 + 2 * i) for p in "ABCDE" for i in range(2)}
FIELDS = [
    "head",
    "mode",
    "protocol",
    "fold",
    "backbone",
    "views",
    "panel_size",
    "n_train",
    "n_test",
    "pcc_slide_mean",
    "pcc_slide_median",
    "pcc_pooled",
    "pcc_heg50",
    "pcc_hvg50",
    "mse",
    "mae",
    "nan_genes",
    "constant",
    "panel",
    "preprocessing",
    "options",
    "fit_seconds",
    "fit_cpu_seconds",
    "predict_seconds",
    "parameters",
    "seed",
]
FAST = CompareOptions(heads=("ridge",))


@pytest.fixture
def store(make_store):
    return make_store(SLIDES)


@pytest.fixture
def comparison(store) -> Comparison:
    return compare(store, options=FAST)


def record(comparison, head, fold, protocol="strict"):
    found = [r for r in comparison.records if (r["head"], r["fold"], r["protocol"]) == (head, fold, protocol)]
    assert len(found) == 1
    return found[0]


def test_records_have_the_documented_fields_for_every_head_and_fold(comparison):
    heads = {r["head"] for r in comparison.records}
    controls = {name for name, entry in HEADS.items() if entry.control}
    assert {"mean", "patient-mean", "slide-feature-mean", "coordinates", "density", "shuffled"} <= controls
    assert heads == {"ridge"} | controls
    for head in heads:
        for fold in (*"ABCDE", "all"):
            one = record(comparison, head, fold)
            assert set(FIELDS) <= set(one)
            assert one["control"] == (head in controls)
    whole = record(comparison, "ridge", "all")
    assert set(whole["per_patient"]) == set("ABCDE")
    assert whole["pcc_slide_mean_low"] < whole["pcc_slide_mean"] < whole["pcc_slide_mean_high"]
    assert whole["n_test"] == sum(n for _, n in SLIDES.values())
    assert record(comparison, "ridge", "A")["chosen"]["selection"] == "patients"


def test_the_difference_from_ridge_and_from_the_best_control_stands_in_every_record(comparison):
    """Two slides a patient and a patient a fold: the t interval of the folds' differences."""
    controls = [r for r in comparison.records if r["fold"] == "all" and r["control"] and not r["diagnostic"]]
    best = max(controls, key=lambda one: one["pcc_slide_mean"])["head"]
    for head in {r["head"] for r in comparison.records}:
        whole = record(comparison, head, "all")
        for name, rival in (("ridge", "ridge"), ("control", best)):
            found = whole[f"difference_from_{name}"]
            if head == rival:
                assert found is None
                continue
            assert (found["head"], found["score"], found["method"]) == (rival, "pcc_slide_mean", "t")
            gains = [
                record(comparison, head, fold)["pcc_slide_mean"] - record(comparison, rival, fold)["pcc_slide_mean"]
                for fold in "ABCDE"
            ]
            headlines = [record(comparison, one, "all")["pcc_slide_mean"] for one in (head, rival)]
            assert found["difference"] == pytest.approx(headlines[0] - headlines[1], abs=1e-12)
            low, high = ttest_1samp(gains, 0).confidence_interval()
            assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-9)
            assert (found["n_patients"], found["wins"]) == (5, sum(gain > 0 for gain in gains))
    assert (whole["n_slides"], whole["n_patients"], whole["interval_method"]) == (10, 5, "t")


def test_processor_time_stands_beside_elapsed_time(comparison):
    for fold in ("A", "all"):
        ridge = record(comparison, "ridge", fold)
        assert ridge["fit_cpu_seconds"] > 0
        assert ridge["fit_seconds"] > 0
    assert record(comparison, "ridge", "all")["fit_cpu_seconds"] == pytest.approx(
        sum(record(comparison, "ridge", fold)["fit_cpu_seconds"] for fold in "ABCDE")
    )


def test_what_was_planted_is_found_and_controls_stay_low(comparison):
    ridge = record(comparison, "ridge", "all")
    for control in ("coordinates", "shuffled"):
        one = record(comparison, control, "all")
        assert ridge["pcc_slide_mean"] > one["pcc_slide_mean"] + 0.3
        assert abs(one["pcc_slide_mean"]) < 0.12
    for control in ("mean", "patient-mean", "slide-feature-mean"):
        one = record(comparison, control, "all")
        assert (one["pcc_slide_mean"], one["constant"]) == (0.0, True)


def test_the_headline_is_the_documented_formula(store):
    """Ridge predictions of one fold, scored with scipy gene by gene and slide by slide."""
    protocol = get_protocol("strict")
    table = store.table("toy@20x", control_keys=["haematoxylin@20x"])
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[1]
    one = prepare(prepare_cohort(table, protocol), fold, protocol)
    from tissuary.heads import make_head

    prediction = make_head("ridge").fit(one.train).predict(one.test) + one.test.target_offset[one.test.slide]
    by_slide = [
        np.mean([pearsonr(prediction[here, g], one.truth[here, g])[0] for g in range(one.truth.shape[1])])
        for here in (one.test.slide == s for s in range(2))
    ]
    scored = record(compare(store, options=FAST), "ridge", fold.name)
    assert scored["pcc_slide_mean"] == pytest.approx(np.mean(by_slide), abs=1e-6)
    assert scored["mse"] == pytest.approx(np.mean((prediction - one.truth) ** 2), rel=1e-5)


def test_targets_are_log1p_of_counts_per_ten_thousand_over_all_genes(store):
    protocol = replace(get_protocol("strict"), panel_size=5)
    table = store.table("toy@20x")
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    one = prepare(prepare_cohort(table, protocol), fold, protocol)
    counts = [read_expression(expression_path(store.path, s)).counts.toarray() for s in table.slide_ids]
    logs = [np.log1p(1e4 * c / c.sum(1, keepdims=True)) for c in counts]
    train = [i for i, p in enumerate(table.patient_ids) if p != "A"]
    ranking = np.argsort(-np.mean([logs[i].mean(0) for i in train], axis=0), kind="stable")[:5]
    assert one.panel.genes.tolist() == [f"gene{g}" for g in ranking]
    np.testing.assert_allclose(one.truth, np.concatenate([logs[0], logs[1]])[:, ranking], rtol=1e-5)
    centred = np.concatenate([logs[i][:, ranking] - logs[i][:, ranking].mean(0) for i in train])
    np.testing.assert_allclose(one.train.targets, centred, atol=1e-5)
    depth = np.concatenate([counts[i].sum(1) for i in train])
    np.testing.assert_allclose(one.train.weights, depth / (depth + np.median(depth)), rtol=1e-5)
    offset = np.mean([logs[i][:, ranking].mean(0) for i in train], axis=0)
    np.testing.assert_allclose(one.test.target_offset, np.stack([offset, offset]), rtol=1e-5)


def test_nothing_learnt_depends_on_test_counts(store):
    """Poisoning the counts of the test patient changes its scores and nothing that training made."""
    protocol = replace(get_protocol("strict"), panel_size=6)

    def first_fold():
        table = Store(store.path).table("toy@20x")
        fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
        return prepare(prepare_cohort(table, protocol), fold, protocol)

    before = first_fold()
    for slide in ("A0", "A1"):
        path = expression_path(store.path, slide)
        old = read_expression(path)
        path.unlink()
        poisoned = Expression((old.counts * 0 + old.counts[:, ::-1] * 50).tocsr(), old.genes, old.barcode)
        write_expression(path, poisoned, store.patches(slide), slide_id=slide)
    after = first_fold()
    assert after.panel.genes.tolist() == before.panel.genes.tolist()
    np.testing.assert_array_equal(after.train.targets, before.train.targets)
    np.testing.assert_array_equal(after.train.weights, before.train.weights)
    np.testing.assert_array_equal(after.test.target_offset, before.test.target_offset)
    np.testing.assert_array_equal(after.hvg50, before.hvg50)
    assert not np.allclose(after.truth, before.truth)


def test_spots_without_counts_are_left_out_and_named(store):
    before = record(compare(store, options=FAST), "ridge", "all")["pcc_slide_mean"]
    for slide in ("B0", "C1"):
        path = expression_path(store.path, slide)
        old = read_expression(path)
        path.unlink()
        seen = np.ones(old.counts.shape[0]) if slide == "B0" else np.zeros(old.counts.shape[0])
        seen[:6] = 0
        emptied = Expression(old.counts.multiply(seen[:, None]).tocsr(), old.genes, old.barcode)
        write_expression(path, emptied, store.patches(slide), slide_id=slide)
    found = compare(Store(store.path), options=FAST)
    assert found.warnings[-2:] == ("38 spots without any count are left out (B0 6, C1 32)", "no spot is left of C1")
    assert record(found, "ridge", "all")["pcc_slide_mean"] == pytest.approx(before, abs=0.08)
    assert record(found, "ridge", "B")["n_test"] == 30 - 6 + 32


def test_a_feature_that_only_one_slide_has_does_not_ruin_the_offsets(make_store):
    store = make_store({f"{p}{i}": (p, 20) for p in "ABCDEF" for i in range(2)})
    protocol = get_protocol("strict")
    table = store.table("toy@20x")
    parts = [np.array(part) for part in table.columns["toy@20x"].parts]
    for i, part in enumerate(parts):
        part[:, 7] = 0
        part[0, 7] = 2.0 if i == 0 else 1e-4
    odd = replace(table, columns={"toy@20x": replace(table.columns["toy@20x"], parts=tuple(parts))})
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    usual, strange = (prepare(prepare_cohort(one, protocol), fold, protocol) for one in (table, odd))
    assert np.abs(strange.test.target_offset - usual.test.target_offset).max() < 1.0


def test_features_can_be_left_as_they_are_and_the_record_says_so(store):
    plain = compare(store, options=replace(FAST, standardise="none"))
    assert record(plain, "ridge", "A")["preprocessing"]["features"] == "as stored"
    assert (
        record(plain, "ridge", "all")["pcc_slide_mean"]
        < record(compare(store, options=FAST), "ridge", "all")["pcc_slide_mean"]
    )
    assert not any("transductive" in said for said in plain.protocols[0].declares)


def test_protocols_are_run_once_and_a_patient_called_all_is_refused(make_store):
    store = make_store({"a1": ("A", 20), "b1": ("B", 20), "c1": ("all", 20)})
    with pytest.raises(ProtocolError, match="is called 'all'"):
        compare(store, options=FAST)
    found = compare(store, options=replace(FAST, protocols=("strict-slide", "strict-slide")))
    assert len([r for r in found.records if (r["head"], r["fold"]) == ("ridge", "a1")]) == 1


@pytest.mark.parametrize("error", [np.linalg.LinAlgError, AssertionError, MissingDependencyError])
def test_a_head_that_fails_costs_itself(error, store, monkeypatch):
    def broken(self, table):
        raise error("did not converge")

    monkeypatch.setattr("tissuary.heads.baselines.knn.NearestNeighbours.fit", broken)
    found = compare(store, options=replace(FAST, heads=("ridge", "knn")))
    assert found.skipped == (("knn (strict)", f"{error.__name__} on fold A: did not converge"),)
    assert record(found, "ridge", "all")


def test_ten_training_slides_predict_the_offset_from_slide_features(make_store):
    store = make_store({f"{p}{i}": (p, 12) for p in "ABCDEF" for i in range(2)})
    protocol = get_protocol("strict")
    table = store.table("toy@20x")
    fold = outer_folds(protocol, table.slide_ids, table.patient_ids)[0]
    one = prepare(prepare_cohort(table, protocol), fold, protocol)
    assert one.preprocessing["slide_offset"] == "ridge on slide-mean features"
    assert not np.allclose(one.test.target_offset[0], one.test.target_offset[1])


def test_two_protocols_run_on_their_own_folds_and_warn(make_store):
    store = make_store({"a1": ("A", 30), "a2": ("A", 32), "b1": ("B", 30)})
    found = compare(store, options=replace(FAST, protocols=("strict", "strict-slide")))
    assert {r["fold"] for r in found.records if r["protocol"] == "strict-slide"} == {"a1", "a2", "b1", "all"}
    assert any("there are two patients" in warning for warning in found.warnings)


def test_one_patient_is_sent_to_strict_slide(make_store):
    with pytest.raises(ProtocolError, match="Use --protocol strict-slide"):
        compare(make_store({"a1": ("A", 30), "a2": ("A", 32)}), options=FAST)


def test_a_head_without_its_input_is_named_and_the_others_go_on(store):
    for slide in SLIDES:
        features_path(store.path, slide, key="haematoxylin@20x").unlink()
    found = compare(Store(store.path), options=FAST)
    assert [head for head, _ in found.skipped] == ["density (strict)"]
    assert found.warnings[-1] == "control density was not run under strict, so the floor shown may be too low"
    assert "featurize the slides again" in found.skipped[0][1]
    assert record(found, "ridge", "all")["pcc_slide_mean"] > 0.3


def test_slides_without_counts_are_left_out_and_named(store):
    expression_path(store.path, "C1").unlink()
    found = compare(Store(store.path), options=FAST)
    assert found.warnings[-1] == "1 slides lack counts or features and are left out: C1"


def test_results_and_report_are_written_from_it(comparison, tmp_path):
    write_results(comparison.records, tmp_path)
    path = write_report(comparison, tmp_path / "report.html")
    assert len(json.loads((tmp_path / "results.json").read_text())) == len(comparison.records)
    assert polars.read_parquet(tmp_path / "results.parquet").height == len(comparison.records)
    page = path.read_text()
    assert "ridge" in page
    assert {one.role for one in comparison.maps} == {"best gene", "median gene"}
    best, median = comparison.maps
    assert best.pcc == pytest.approx(pearsonr(best.predicted, best.measured)[0], abs=1e-5)
    assert median.gene in page


def test_same_seed_same_scores(store, comparison):
    again = compare(store, options=FAST)
    timing = {"fit_seconds", "fit_cpu_seconds", "predict_seconds"}
    for one, two in zip(comparison.records, again.records, strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == {k: v for k, v in two.items() if k not in timing}


def test_feature_choice_is_explicit_where_there_is_a_choice(store):
    assert feature_keys(store) == ("toy@20x",)
    for slide in SLIDES:
        source = features_path(store.path, slide, key="toy@20x")
        for key in ("toy@5x", "toy@native", "other@20x"):
            target = features_path(store.path, slide, key=key)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    grown = Store(store.path)
    with pytest.raises(StoreError, match=r"features of other, toy on 'spots'.*choose with `backbone=.other.`"):
        feature_keys(grown)
    assert feature_keys(grown, backbone="toy") == ("toy@native", "toy@20x", "toy@5x")
    assert feature_keys(grown, backbone="toy", views=("5x", "20x")) == ("toy@5x", "toy@20x")
    with pytest.raises(StoreError, match=r"no features other@10x on 'spots' \(views of other: 20x\). Make them:"):
        feature_keys(grown, backbone="other", views=("10x",))
