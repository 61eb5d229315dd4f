"""Comparisons that stop and go on, several sets of features, and heads in modes."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from tissuary.heads import CompareOptions, compare
from tissuary.heads.comparison.head_spec import HeadSpec, contestants
from tissuary.heads.comparison.plan import make_plan
from tissuary.heads.comparison.results_file import write_provenance
from tissuary.heads.linear.ridge import Ridge
from tissuary.heads.protocols.named import get_protocol
from tissuary.store import Store
from tissuary.store.errors import HeadError, StoreError
from tissuary.store.files.expression import read_expression, write_expression
from tissuary.store.files.features import FeatureHeader, read_features, write_features
from tissuary.store.files.patches import read_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path, slide_path
from tissuary.store.files.slide import read_slide, write_slide

pytestmark = pytest.mark.usefixtures("few_draws")

SLIDES = {f"{p}1": (p, 25) for p in "ABCD"}
TIMES = {"fit_seconds", "fit_cpu_seconds", "predict_seconds"}


@pytest.fixture
def store(make_store):
    return make_store(SLIDES, views=("20x", "5x"))


@pytest.fixture
def options(tmp_path):
    return CompareOptions(heads=("ridge",), cells=tmp_path / "cells")


@pytest.fixture
def fits(monkeypatch):
    """How often ridge was trained, `shuffled` included."""
    done, fit = [], Ridge.fit

    def counted(self, table):
        done.append(table.slide_ids)
        return fit(self, table)

    monkeypatch.setattr(Ridge, "fit", counted)
    return done


def without_times(comparison):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in comparison.records]


def test_a_comparison_that_was_run_before_trains_nothing_and_gives_the_same(store, options, fits):
    first = compare(store, options=options)
    trained = len(fits)
    assert trained > 0
    second = compare(store, options=options)
    assert len(fits) == trained
    assert second.records == first.records  # times included: they are those of the training
    assert without_times(first) == without_times(compare(store, options=replace(options, cells=None)))


TOKENS = ("toy@20x.grid7x7", "toy@5x.grid7x7")


def add_tokens(store, seed=0):
    """Token grids of every slide."""
    rng = np.random.default_rng(seed)
    for slide_id in store.slide_ids:
        place = read_patches(patches_path(store.path, slide_id, patches="spots"))
        for key, fov_um in zip(TOKENS, (112.0, 448.0), strict=True):
            own = ("toy", {"licence": "CC0"}, fov_um / 224, fov_um, 1.0, "fp32", place.digest, 0.5, "none")
            path = features_path(store.path, slide_id, key=key, patches="spots")
            path.unlink(missing_ok=True)
            with write_features(path, FeatureHeader(slide_id, *own), shape=(len(place), 49, 4)) as writer:
                writer.append(rng.normal(size=(len(place), 49, 4)).astype(np.float32))
    return Store(store.path)


def test_tokens_are_loaded_only_for_heads_that_read_them(store, options):
    store = add_tokens(store)
    assert not make_plan(store, replace(options, heads=("ridge", "nh2st"))).table.token_columns
    for reader in ("m2ost", "cmrc:paper", "ensemble:members=ridge+m2ort"):
        assert sorted(make_plan(store, replace(options, heads=("ridge", reader))).table.token_columns) == sorted(TOKENS)


def test_cells_of_other_heads_are_taken_when_one_that_reads_tokens_joins(make_store, options, fits):
    store = add_tokens(make_store({"A1": ("A", 9), "B1": ("B", 9)}, views=("20x", "5x")))
    compare(store, options=options)
    trained = len(fits)
    joined = replace(options, heads=("ridge", "m2ost:epochs=1,members=1"))
    cells = len(list(options.cells.iterdir()))
    compare(store, options=joined)
    assert len(fits) == trained
    assert len(list(options.cells.iterdir())) == cells + 2
    compare(add_tokens(store, seed=1), options=joined)  # other tokens under one fingerprint
    assert len(fits) == trained
    assert len(list(options.cells.iterdir())) == cells + 4


def test_a_comparison_that_was_stopped_trains_only_what_is_missing(store, options, fits, monkeypatch):
    whole = without_times(compare(store, options=replace(options, cells=None)))
    in_all = len(fits)
    fits.clear()
    counted = Ridge.fit

    def stopped(self, table):
        if len(fits) == 3:
            raise KeyboardInterrupt
        return counted(self, table)

    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(store, options=options)
    assert len(fits) == 3
    assert without_times(compare(store, options=options)) == whole
    assert len(fits) == in_all


def test_cells_are_not_taken_when_counts_seed_or_protocol_changed(store, options, fits):
    compare(store, options=options)
    before = len(fits)
    compare(store, options=replace(options, seed=5))
    compare(store, options=replace(options, standardise="none"))
    assert len(fits) == 3 * before
    path = expression_path(store.path, "A1")
    changed = read_expression(path)
    changed.counts[0, 0] += 1
    path.unlink()
    write_expression(path, changed, read_patches(patches_path(store.path, "A1")), slide_id="A1")
    compare(Store(store.path), options=options)
    assert len(fits) == 4 * before


def test_damaged_cells_are_trained_again(store, options, fits, caplog):
    first = compare(store, options=options)
    before = len(fits)
    for path in options.cells.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    again = compare(store, options=options)
    assert len(fits) == 2 * before
    assert "is damaged" in caplog.text
    assert without_times(again) == without_times(first)


def test_every_set_of_features_is_compared_on_the_same_folds(store, options):
    sets = ((), ("20x",), ("5x",))
    found = compare(store, options=replace(options, view_sets=sets))
    ridge = {r["views"]: r for r in found.records if (r["head"], r["fold"]) == ("ridge", "all")}
    assert set(ridge) == {"20x+5x", "20x", "5x"}
    assert len({r["n_test"] for r in ridge.values()}) == 1
    assert ridge["20x+5x"]["pcc_slide_mean"] > ridge["20x"]["pcc_slide_mean"]  # each view carries its own signal
    mean = [r for r in found.records if (r["head"], r["fold"]) == ("mean", "all")]
    assert [(r["backbone"], r["views"]) for r in mean] == [(None, None)]  # it reads no features: once for all
    alone = compare(store, options=replace(options, view_sets=(("5x",),)))
    (one,) = [r for r in alone.records if (r["head"], r["fold"]) == ("ridge", "all")]
    assert one["pcc_slide_mean"] == pytest.approx(ridge["5x"]["pcc_slide_mean"], abs=1e-9)


def test_modes_are_contestants_of_their_own():
    strict, hest = get_protocol("strict"), get_protocol("hest-bench/a1")
    assert HeadSpec("ridge", "hest").label == "ridge (hest)"
    assert contestants(["knn", "ridge:hest"], strict)[:2] == (HeadSpec("knn"), HeadSpec("ridge", "hest"))
    assert contestants(["ridge"], hest)[:2] == (HeadSpec("ridge"), HeadSpec("ridge", "hest"))
    with pytest.raises(HeadError, match="there is no head 'ridgy'"):
        contestants(["ridgy:hest"], strict)
    with pytest.raises(HeadError, match="HEAD:MODE"):
        contestants(["ridge:"], strict)


def test_a_mode_that_a_head_does_not_have_is_named(store, options):
    with pytest.raises(HeadError, match="head 'knn' has no mode 'paper'"):  # before ridge is trained
        compare(store, options=replace(options, heads=("ridge", "knn:paper")))


def test_cells_are_not_taken_when_features_were_replaced_under_one_fingerprint(store, options, fits):
    first = compare(store, options=options)
    before = len(fits)
    for slide in SLIDES:
        path = features_path(store.path, slide, key="toy@20x")
        found = read_features(path)
        rows = np.array(found.features)[::-1]
        path.unlink()
        with write_features(path, found.header, shape=rows.shape) as writer:
            writer.append(rows)
    again = compare(Store(store.path), options=options)
    assert len(fits) == 2 * before
    scores = [{r["fold"]: r["pcc_slide_mean"] for r in one.records if r["head"] == "ridge"} for one in (first, again)]
    assert scores[1]["all"] < scores[0]["all"]


def test_a_protocol_that_the_slides_do_not_allow_costs_itself(make_store):
    store = make_store({"a1": ("A", 25), "a2": ("A", 25)})
    found = compare(store, options=CompareOptions(heads=("ridge",), protocols=("strict", "strict-slide")))
    assert [protocol.name for protocol in found.protocols] == ["strict-slide"]
    assert {r["protocol"] for r in found.records} == {"strict-slide"}
    (skipped,) = [reason for label, reason in found.skipped if label == "every head (strict)"]
    assert "Use --protocol strict-slide" in skipped


def test_a_feature_that_is_no_number_is_named(store, options):
    path = features_path(store.path, "B1", key="toy@20x")
    found = read_features(path)
    rows = np.array(found.features)
    rows[3, 1] = np.nan
    path.unlink()
    write_without_checks(path, found.header, rows)
    with pytest.raises(StoreError, match=r"features toy@20x of slide B1 are not finite in row 3"):
        compare(Store(store.path), options=options)


def write_without_checks(path, header, rows):
    """A writer refuses NaN, so it is put into the finished file."""
    with write_features(path, header, shape=rows.shape) as writer:
        writer.append(np.nan_to_num(rows))
    with h5py.File(path, "r+") as file:
        file["features"][3, 1] = np.nan


def test_slides_without_a_picture_have_maps_without_one(store, options):
    for slide in SLIDES:
        path = slide_path(store.path, slide)
        record = read_slide(path)
        path.unlink()
        write_slide(path, record, thumbnail=None)
    found = compare(Store(store.path), options=options)
    assert found.maps
    assert all(one.thumbnail is None for one in found.maps)


def test_provenance_names_slides_genes_and_what_was_changed(store, options, tmp_path):
    found = compare(store, options=replace(options, panel=("gene3", "gene5"), spot_weight="none"))
    path = write_provenance(found, tmp_path)
    content = json.loads(path.read_text())
    assert content["folds"]["strict"]["A"] == {"train": ["B1", "C1", "D1"], "test": ["A1"], "genes": ["gene3", "gene5"]}
    said = content["protocols"]["strict"]["adapted"]
    assert "spots weighted by none in place of depth" in said
    assert "genes list of 2 in place of heg250" in said
    assert set(content["fingerprints"]) == {"toy@20x", "toy@5x"}
    (plain,) = compare(store, options=options).protocols
    assert plain == get_protocol("strict")


def test_pooled_scores_have_patients_where_each_fold_is_one(make_store):
    store = make_store({f"{p}{i}": (p, 25) for p in "ABCDE" for i in range(2)}, n_genes=70)
    found = compare(store, options=CompareOptions(heads=("ridge",), protocols=("hest-bench/a2",)))
    whole = next(r for r in found.records if (r["head"], r["mode"], r["fold"]) == ("ridge", "default", "all"))
    folds = {r["fold"]: r["pcc_pooled"] for r in found.records if (r["head"], r["mode"]) == ("ridge", "default")}
    assert whole["per_patient_score"] == {patient: folds[patient] for patient in "ABCDE"}
    assert whole["pcc_pooled_low"] <= whole["pcc_pooled"] <= whole["pcc_pooled_high"]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("shuffled", "False", False),
        ("shuffled", "true", True),
        ("anchor", "None", None),
        ("members", "3", 3),
        ("dropout", "0.5", 0.5),
        ("neighbours", "space", "space"),
    ],
)
def test_options_on_the_command_line_are_values_and_not_words(option, text, value):
    head = HeadSpec("mmap", f"{option}={text}").make(7)
    assert getattr(head, option) == value
    assert type(getattr(head, option)) is type(value)
    assert head.seed == 7


def test_a_mode_and_options_go_together():
    head = HeadSpec("nh2st", "paper,epochs=3,seed=9").make(7)
    assert (head.mode, head.epochs, head.seed) == ("paper", 3, 9)
