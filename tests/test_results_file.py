"""results.json and results.parquet: the same records in both, nested fields and missing scores included."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.heads.comparison.results_file import FIELDS, plain_records, read_results, write_results
from tissuary.store.errors import StoreError

RECORD = {
    "head": "ridge",
    "mode": "default",
    "protocol": "strict",
    "fold": "all",
    "backbone": "stain-texture",
    "views": ("20x", "10x"),
    "panel_size": 250,
    "pcc_slide_mean": np.float32(0.25),
    "pcc_slide_mean_low": None,
    "mse": float("nan"),
    "nan_genes": np.int64(3),
    "constant": np.bool_(False),
    "preprocessing": {"features": "z-scored within slide", "half_weight_depth": 812.5},
    "options": {"neighbours": "space", "rings_um": (300, 600), "anchor": None},
    "per_patient": {"B": 0.125, "C": float("nan")},
    "control": False,
}
FOLD = {"head": "ridge", "fold": "B", "pcc_slide_mean": 1, "options": {}}


def test_both_files_hold_the_same_records(tmp_path):
    as_json, as_parquet = write_results([RECORD, FOLD], tmp_path / "report")

    assert (as_json.name, as_parquet.name) == ("results.json", "results.parquet")
    whole, fold = read_results(as_json)
    assert read_results(as_parquet) == [whole, fold]
    assert whole["pcc_slide_mean"] == 0.25
    assert whole["mse"] is None
    assert whole["nan_genes"] == 3
    assert whole["constant"] is False
    assert whole["views"] == ["20x", "10x"]
    assert whole["options"] == {"neighbours": "space", "rings_um": [300, 600], "anchor": None}
    assert whole["per_patient"] == {"B": 0.125, "C": None}
    assert fold["per_patient"] is None
    assert fold["options"] == {}
    assert fold["pcc_slide_mean"] == 1


def test_json_is_a_list_in_strict_json_with_the_documented_fields_first(tmp_path):
    path, _ = write_results([{**FOLD, "nan_slides": 0}], tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    records = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert isinstance(records, list)
    assert tuple(records[0]) == (*FIELDS, "nan_slides")


def test_parquet_is_readable_by_any_program_with_nested_fields_as_json_text(tmp_path):
    import polars

    _, path = write_results([RECORD, FOLD], tmp_path)

    frame = polars.read_parquet(path)
    assert frame.schema["pcc_slide_mean"] == polars.Float64
    assert frame.schema["pcc_slide_mean_high"] == polars.Float64
    assert frame.schema["nan_genes"] == polars.Int64
    assert frame.schema["constant"] == polars.Boolean
    assert json.loads(frame["options"][0])["neighbours"] == "space"
    assert frame["mse"].null_count() == 2
    assert frame.filter(polars.col("fold") == "B")["pcc_slide_mean"].to_list() == [1.0]


def test_no_records_give_two_empty_files(tmp_path):
    as_json, as_parquet = write_results([], tmp_path)

    assert read_results(as_json) == read_results(as_parquet) == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "head": st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
                "pcc_pooled": st.none() | st.floats(),
                "seed": st.integers(-(2**40), 2**40),
                "per_patient": st.none() | st.dictionaries(st.text("ab'\"\\ü", max_size=4), st.floats(), max_size=3),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_from_either_file(tmp_path_factory, records):
    paths = write_results(records, tmp_path_factory.mktemp("results"))

    for path in paths:
        assert read_results(path) == plain_records(records)


def test_a_bad_record_leaves_neither_file_and_an_old_file_stays(tmp_path):
    old, _ = write_results([FOLD], tmp_path)
    before = old.read_bytes()

    with pytest.raises(TypeError, match=r"holds a object; wanted a number, text"):
        write_results([{**FOLD, "options": object()}], tmp_path)
    with pytest.raises(TypeError, match=r"field 'fold' of the records holds int, str"):
        write_results([FOLD, {**FOLD, "fold": 3}], tmp_path)

    assert old.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("results.json", b'{"head": "ridge"}', "not a list of objects"),
        ("results.json", b"[", "no results file of tissuary"),
        ("results.parquet", b"PAR1 not at all", "no results file of tissuary"),
    ],
)
def test_a_foreign_file_is_named(tmp_path, name, content, cause):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(StoreError, match=cause):
        read_results(path)


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(StoreError, match="tissuary compare"):
        read_results(tmp_path / "results.json")
