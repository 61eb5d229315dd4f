"""One spelling for a patient, whatever a source or a person writes in the cell."""

import logging

import h5py
import numpy as np
import pandas
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuary.cli.import_ import read_patients
from tissuary.featurize.sources.gaps import announce
from tissuary.featurize.sources.load import load_cohort
from tissuary.heads.protocols.splits import patient_warnings
from tissuary.store.errors import CohortError
from tissuary.store.files.slide import SlideRecord, read_slide, write_slide
from tissuary.store.naming import look_alike_patients, patient_name
from tissuary.tests.source_files import h5ad, hest_csv, hest_facts, hest_json, tiff


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ((7, 7.0, np.int8(7), np.float32(7), "7", "7.0", "7.", " 7 ", np.array([7.0])), "7"),
        (("P1", "P1 ", "\u00a0P1", "P\u200b1", "\ufeffP1", b"P1", np.str_("P1"), "\uff30\uff11"), "P1"),
        (("Jane Doe", "Jane  Doe", "Jane\u00a0Doe", "Jane\tDoe"), "Jane Doe"),
        (("007", "007.0"), "007"),
        ((0.5, np.float32(0.5), "0.5"), "0.5"),
        (("unknown-7",), "unknown-7"),
        ((None, np.nan, pandas.NA, pandas.NaT, "", " ", "-", "--", "?", "N/A", "n.a.", "#N/A", "<NA>"), None),
        (("Unknown", "not_available", "Not applicable", "missing", "restricted access", "unknown:A"), None),
    ],
)  # fmt: skip
def test_a_patient_has_one_name(cells, name):
    assert {patient_name(cell) for cell in cells} == {name}


@given(st.text(max_size=12))
def test_the_name_of_a_name_is_itself(text):
    name = patient_name(text)
    assert name is None or patient_name(name) == name


@given(st.integers(0, 2**53))
def test_whole_numbers_are_named_alike_in_every_type(number):
    assert patient_name(float(number)) == patient_name(number) == patient_name(f"{number}.0") == str(number)


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (["P1", "p-01", "P 1", "Q1"], (("P 1", "P1", "p-01"),)),
        (["7", "007", "70"], (("007", "7"),)),
        (["M\u00fcller", "Muller"], (("Muller", "M\u00fcller"),)),
        (["1-11", "11-1", "111", "A1", "A2", "unknown:a", "unknown:A", "+", "*"], ()),
    ],
)
def test_names_that_may_be_one_patient(ids, groups):
    assert look_alike_patients(ids) == groups


@pytest.mark.parametrize(("kept", "name"), [("7.0", "7"), ("N/A", "unknown:S1"), ("unknown:S1", "unknown:S1")])
def test_a_store_of_an_earlier_version_gives_the_patient_its_name(tmp_path, kept, name):
    path = tmp_path / "S1.h5"
    record = SlideRecord("S1", "7", 40, 40, 0.5, "metadata", {}, "S1.tif", "0" * 64, "tissuary")
    write_slide(path, record, thumbnail=None)
    with h5py.File(path, "a") as file:
        file.attrs["patient_id"] = kept
    assert read_slide(path).patient_id == name


def test_look_alikes_are_warned_about_before_work_and_beside_scores(tmp_path, caplog):
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,image\na,P1,a.tif\nb,p1,b.tif\nc,Q,c.tif\n")
    with caplog.at_level(logging.WARNING):
        announce(load_cohort(tmp_path))
    assert "patients 'P1' and 'p1' count as different people" in caplog.text
    assert any("'7' and '07' count" in one or "'07' and '7' count" in one for one in patient_warnings(["7", "07", "8"]))


def test_every_source_gives_a_patient_the_same_name(tmp_path):
    for name, cell in (("A", 7), ("B", 7.0), ("C", [7.0, np.nan, 7.0, 7.0])):
        h5ad(tmp_path / f"h5ad/{name}.h5ad", obs={"patient": cell})
        tiff(tmp_path / f"h5ad/{name}.tif")
    h5ad(tmp_path / "h5ad/D.h5ad", obs={"donor_id": "7"}, uns={"patient": {"of": "no name"}})
    tiff(tmp_path / "h5ad/D.btf")
    hest_csv(tmp_path / "hest", hest_facts("A", patient="7.0"), hest_facts("B"))
    hest_json(tmp_path / "hest", hest_facts("B", patient=7))
    for name in "AB":
        h5ad(tmp_path / f"hest/st/{name}.h5ad")
        tiff(tmp_path / f"hest/wsis/{name}.tif")
    table = polars.DataFrame({"slide_id": [1.0, 2.0, 3.0], "patient_id": [7.0, 7.0, None], "image": ["a.tif"] * 3})
    (tmp_path / "manifest").mkdir()
    table.write_parquet(tmp_path / "manifest/m.parquet")
    (tmp_path / "manifest/m.csv").write_text("slide_id, patient_id ,image\n1, 7.0 ,a.tif\n2,7,a.tif\n3,,a.tif\n")
    (tmp_path / "st/ST-imgs/7.0/S1").mkdir(parents=True)
    tiff(tmp_path / "st/ST-imgs/7.0/S1/a.tif")
    sources = ("h5ad", "hest", "manifest/m.parquet", "manifest/m.csv", "st")
    found = {name: [(s.slide_id, s.patient_id) for s in load_cohort(tmp_path / name).samples] for name in sources}
    assert found == {
        "h5ad": [(name, "7") for name in "ABCD"],
        "hest": [("A", "7"), ("B", "7")],
        "manifest/m.parquet": [("1", "7"), ("2", "7"), ("3", "unknown:3")],
        "manifest/m.csv": [("1", "7"), ("2", "7"), ("3", "unknown:3")],
        "st": [("S1", "7")],
    }


def test_two_places_that_name_different_patients_are_said(tmp_path, caplog):
    h5ad(tmp_path / "A.h5ad", obs={"patient": "P1"}, uns={"patient_id": "P2"})
    tiff(tmp_path / "A.tif")
    (sample,) = load_cohort(tmp_path).samples
    assert sample.patient_id == "P2"
    assert "uns/patient_id says P2, obs/patient says P1; the first is taken as the patient" in caplog.text


def test_a_table_of_patients_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(
        "slide_id, patient_id ,mpp\nS0,P1 ,\nS1.svs,P1,0.5\n S2.ome.tif ,2.0,NA\nS3,unknown,\nv1.2,Q,\n\n",
        encoding="utf-8-sig",
    )
    patients, mpps = read_patients(path)
    assert patients == {"S0": "P1", "S1.svs": "P1", "S1": "P1", "S2.ome.tif": "2", "S2": "2", "v1.2": "Q"}
    assert mpps == {"S1.svs": 0.5, "S1": 0.5}


def test_a_table_that_gives_one_slide_two_patients_is_refused(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("slide_id,patient_id\nS0.svs,P1\nS0,P2\n")
    with pytest.raises(CohortError, match="slide S0 has both P1 and P2"):
        read_patients(path)
