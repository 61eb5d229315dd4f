"""The main job on cohorts with known answers: heads that read morphology beat every control, by margins."""

import json
import sys

import numpy as np
import pytest

from tissuary.cli.main import main
from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.heads import CompareOptions, compare
from tissuary.heads.registry import HEADS
from tissuary.store import Store
from tissuary.synthetic.cohort import write_cohort

CONTROLS = {name for name, entry in HEADS.items() if entry.control and not entry.diagnostic}


def scores(records, protocol):
    return {r["head"]: r["pcc_slide_mean"] for r in records if (r["fold"], r["protocol"]) == ("all", protocol)}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    manifest = write_cohort(folder / "cohort", patients=4, slides_per_patient=1, spots_per_side=10)
    featurize(manifest, folder / "store", options=FeaturizeOptions())
    return compare(Store(folder / "store"), options=CompareOptions(heads=("ridge", "nh2st:epochs=20,members=1")))


def test_heads_that_read_morphology_beat_every_control_on_the_synthetic_cohort(synthetic):
    found = scores(synthetic.records, "strict")
    floor = max(found[control] for control in CONTROLS)
    assert set(found) == CONTROLS | {"ridge", "nh2st", "depth"}
    assert found["ridge"] > floor + 0.08
    assert found["nh2st"] > floor + 0.08
    assert abs(found["shuffled"]) < 0.03
    assert abs(found["coordinates"]) < 0.08


def test_the_margin_holds_for_every_patient(synthetic):
    by_head = {r["head"]: r["per_patient"] for r in synthetic.records if r["fold"] == "all"}
    for patient, score in by_head["ridge"].items():
        assert score > max(by_head[control][patient] for control in CONTROLS)


def test_demo_on_real_sections_beats_every_control_and_warns(real_data, tmp_path, monkeypatch, capsys):
    """HER2ST, one view, through the command; an independent ridge reached 0.19 raw and 0.23 standardised."""
    words = ["demo", "--data", real_data / "her2st", "--pitch-um", 200, "--views", "10x", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capsys.readouterr()
    assert left.value.code in (None, 0), captured.err
    assert captured.out.strip().endswith("report.html")
    assert "there are two patients" in captured.err
    found = scores(json.loads((tmp_path / "out" / "results.json").read_text()), "strict-slide")
    assert found["ridge"] > max(found[control] for control in CONTROLS) + 0.05
    assert found["ridge"] > 0.19
    assert abs(found["shuffled"]) < 0.03
    assert np.isfinite(list(found.values())).all()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no test of generalisation" in page
