"""Space Ranger: Visium v1 and v2, Visium HD; from files of the exact schema to a store, numbers checked by hand."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.pipeline import featurize
from tissuary.featurize.sources.load import detect, load_cohort
from tissuary.store import Store
from tissuary.store.errors import CohortError, ScaleError
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.tests.source_files import (
    ARRAY,
    BARCODES,
    CENTERS,
    COUNTS,
    GENES,
    picture,
    positions,
    tenx_h5,
    tiff,
    visium,
    visium_hd,
)

OPTIONS = FeaturizeOptions(views=("20x",), batch=4, readers=2)


def only(cohort):
    assert cohort.refused == ()
    (sample,) = cohort.samples
    return sample


@pytest.mark.parametrize("version", [1, 2])
def test_visium_into_a_store(tmp_path, version):
    visium(tmp_path / "in/S1/outs", version=version)
    tiff(tmp_path / "in/S1/tissue.tif")
    report = featurize(tmp_path / "in", tmp_path / "store", options=OPTIONS)
    assert report.failed == ()
    name = "tissue_positions_list.csv" if version == 1 else "tissue_positions.csv"
    assert (tmp_path / "in/S1/outs/spatial" / name).is_file()
    assert report.source == "spaceranger: the folder holds S1/outs/spatial of Space Ranger (Visium)"
    store = Store(tmp_path / "store")
    place, counts = store.patches("S1"), read_expression(expression_path(store.path, "S1"))
    assert place.barcode.tolist() == BARCODES  # the spot beside the tissue is left out
    np.testing.assert_array_equal(place.center_px, CENTERS)  # x is the column, y the row
    np.testing.assert_array_equal(place.array, ARRAY)
    assert counts.genes.tolist() == GENES
    np.testing.assert_array_equal(counts.counts.toarray(), COUNTS)
    slide = store.slide("S1")
    assert (slide.mpp, slide.mpp_source, slide.patient_id) == (0.5, "metadata", "unknown:S1")
    # 100 um over the nearest spot of the staggered array: (100, 173.205) px away, 200 px.
    assert slide.mpp_candidates["spot pitch"] == pytest.approx(100 / np.hypot(100, 173.205), rel=1e-6)
    assert store.features("stain-texture@20x", "S1").shape[0] == 4


def test_visium_by_a_relative_path_is_no_visium_hd(tmp_path, monkeypatch):
    visium(tmp_path / "S1/outs")
    monkeypatch.chdir(tmp_path)
    assert detect(Path("S1"))[1] == "the folder holds outs/spatial of Space Ranger (Visium)"


def test_the_pitch_gives_the_scale_of_an_image_that_does_not_say(tmp_path):
    visium(tmp_path / "S1")
    tiff(tmp_path / "S1/S1.tif", mpp=None)
    featurize(tmp_path / "S1", tmp_path / "store", options=OPTIONS)
    slide = Store(tmp_path / "store").slide("S1")
    assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.5, rel=1e-5), "spot pitch")


def test_an_image_that_contradicts_the_pitch_is_refused(tmp_path):
    visium(tmp_path / "S1")
    tiff(tmp_path / "S1/S1.tif", mpp=0.47)  # 6 % off
    with pytest.raises(ScaleError, match=r"more than 5%: metadata 0\.47, spot pitch 0\.5 .*the Space Ranger output"):
        featurize(tmp_path / "S1", tmp_path / "store", options=OPTIONS)


def test_visium_hd_into_a_store(tmp_path, caplog):
    visium_hd(tmp_path / "in/HD/outs")
    tiff(tmp_path / "in/HD/HD_tissue_image.btf", mpp=None)  # as 10x names it
    featurize(tmp_path / "in/HD", tmp_path / "store", options=OPTIONS)
    store = Store(tmp_path / "store")
    place = store.patches("HD")
    # The coarsest bins: 16 um are 32 px, so the first has its middle 16 px inside.
    assert place.barcode[0] == "s_016um_00000_00000-1"
    np.testing.assert_array_equal(place.center_px, [[416, 316], [448, 316], [416, 348], [448, 348]])
    slide = store.slide("HD")
    assert (slide.mpp, slide.mpp_source) == (0.5, "Space Ranger output")
    assert slide.mpp_candidates["spot pitch"] == pytest.approx(0.5)
    np.testing.assert_array_equal(read_expression(expression_path(store.path, "HD")).counts.toarray(), COUNTS)


def test_bins_are_chosen_by_their_folder(tmp_path):
    outs = visium_hd(tmp_path / "HD/outs")
    tiff(tmp_path / "HD/HD.tif")
    sample = only(load_cohort(outs))
    assert (sample.slide_id, sample.pitch_um, sample.mpp) == ("HD", 16, 0.5)
    assert (
        detect(outs)[1]
        == "the folder holds binned_outputs/square_016um/spatial of Space Ranger (Visium HD, square_016um)"
    )
    finer = only(load_cohort(outs / "binned_outputs/square_002um"))
    assert (finer.slide_id, finer.pitch_um) == ("HD", 2)
    np.testing.assert_array_equal(
        finer.read_measured().spots.center_px, [[402, 302], [406, 302], [402, 306], [406, 306]]
    )


def test_names_of_10x_for_download(tmp_path):
    """`<sample>_filtered_feature_bc_matrix.h5`, and beside CytAssist's image the one called `tissue_image`."""
    visium(tmp_path / "B1", prefix="B1_")
    tiff(tmp_path / "B1/B1_image.tif")
    tiff(tmp_path / "B1/B1_tissue_image.tif")
    sample = only(load_cohort(tmp_path / "B1"))
    assert sample.image.name == "B1_tissue_image.tif"
    assert len(sample.read_measured().genes) == 3


def test_several_runs_each_with_its_image(tmp_path):
    for name in ("S2", "S1", "S3"):
        visium(tmp_path / name / "outs")
    tiff(tmp_path / "S1/images/scan.tif")
    tiff(tmp_path / "S2.tif")
    cohort = load_cohort(tmp_path)
    assert [(s.slide_id, s.image.relative_to(tmp_path).as_posix()) for s in cohort.samples] == [
        ("S1", "S1/images/scan.tif"),
        ("S2", "S2.tif"),
    ]
    assert cohort.source == "spaceranger: the folder holds 3 runs of Space Ranger (Visium)"
    ((slide, cause),) = cohort.refused
    assert slide == "S3"
    assert "needs the full-resolution image that Space Ranger was given, found none" in cause
    assert "tissue_hires_image.png is scaled down" in cause


def test_a_manifest_names_patient_and_image_of_a_run(tmp_path):
    visium_hd(tmp_path / "runs/HD/outs")
    visium(tmp_path / "runs/V/outs")
    rows = "hd,P1,scans/a.svs,,runs/HD/outs\nv,P2,scans/b.svs,0.25,runs/V\n"
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,image,mpp,counts\n" + rows)
    hd, v = load_cohort(tmp_path).samples
    assert (hd.patient_id, hd.mpp, hd.pitch_um) == ("P1", 0.5, 16)
    assert (v.patient_id, v.mpp, v.pitch_um) == ("P2", 0.25, 100)
    assert hd.read_measured().spots.barcode[0] == "s_016um_00000_00000-1"
    assert v.read_measured().spots.barcode.tolist() == BARCODES
    (tmp_path / "manifest.csv").write_text("slide_id,image,counts\nhd,a.svs,runs\n")
    with pytest.raises(CohortError, match="counts runs are a folder with 2 runs of Space Ranger; wanted one"):
        load_cohort(tmp_path)


def test_only_gene_expression_by_symbol_summed(tmp_path):
    outs = visium(tmp_path / "S1")
    tiff(outs / "S1.tif")
    kinds = ["Gene Expression"] * 2 + ["Antibody Capture"]
    tenx_h5(outs / "filtered_feature_bc_matrix.h5", names=["ACTB", "ACTB", "CD3"], kinds=kinds)
    found = only(load_cohort(outs)).read_measured()
    assert found.genes.tolist() == ["ACTB"]
    assert found.counts.toarray().ravel().tolist() == [1, 5, 7, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (positions(in_tissue=[0, 0, 0, 0]), r"none of 5 spots is in_tissue"),
        ([("AAAC-1", 1, 0, 0, "left", 3.0)], r"row 1 holds \('1', '0', '0', 'left', '3.0'\); wanted numbers"),
        ([*positions(), ("AAAC-1", 1, 0, 0, 1.0, 2.0)], "spot AAAC-1 occurs more than once"),
    ],
)
def test_positions_that_cannot_be_used(tmp_path, rows, message):
    outs = visium(tmp_path / "S1", rows=rows)
    tiff(outs / "S1.tif")
    with pytest.raises(CohortError, match=message):
        only(load_cohort(outs)).read_measured()


def test_damage_costs_its_own_slide(tmp_path):
    for name in ("S1", "S2"):
        visium(tmp_path / name)
        tiff(tmp_path / name / "scan.tif")
    (tmp_path / "S1/spatial/scalefactors_json.json").write_text("{")
    cohort = load_cohort(tmp_path)
    assert [slide for slide, _ in cohort.refused] == ["S1"]
    assert "scalefactors_json.json cannot be read" in cohort.refused[0][1]
    matrix = tmp_path / "S2/filtered_feature_bc_matrix.h5"
    matrix.write_bytes(matrix.read_bytes()[:500])
    with pytest.raises(CohortError, match="cannot be read as counts of 10x Genomics"):
        cohort.samples[0].read_measured()
    matrix.unlink()
    with pytest.raises(CohortError, match=r"holds no filtered_feature_bc_matrix\.h5 or raw_feature_bc_matrix\.h5"):
        cohort.samples[0].read_measured()
    with pytest.raises(CohortError, match="holds no output of Space Ranger"):
        load_cohort(tmp_path / "S1/spatial", format="spaceranger")


def test_spots_without_counts_are_few_and_said(tmp_path, caplog):
    outs = visium(tmp_path / "S1")
    tiff(outs / "S1.tif", pixels=picture())
    with caplog.at_level(logging.INFO, logger="tissuary"):
        only(load_cohort(outs)).read_measured()
    assert "slide S1: 4 spots with counts; dropped 0 spots without counts and 0 count rows" in caplog.text
