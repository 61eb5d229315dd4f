"""AnnData beside its image, and the table of what sources do not say."""

import logging

import numpy as np
import pytest

from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.pipeline import featurize
from tissuary.featurize.slide_plan import look_at
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.gaps import announce, gap_table, gaps_of
from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.sources.sample import Cohort, Sample
from tissuary.store import Store
from tissuary.store.errors import CohortError, ScaleError
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.tests.foreign_files import run_command
from tissuary.tests.source_files import ARRAY, BARCODES, CENTERS, COUNTS, GENES, h5ad, picture, tiff

OPTIONS = FeaturizeOptions(views=("20x",), batch=4, readers=2)


def test_h5ad_into_a_store(tmp_path):
    h5ad(tmp_path / "in/A.h5ad", obs={"patient_id": "P7"})
    tiff(tmp_path / "in/images/A.tif")
    report = featurize(tmp_path / "in", tmp_path / "store", options=OPTIONS)
    assert (report.source, report.failed) == ("h5ad: the folder holds 1 .h5ad file(s) and no manifest", ())
    store = Store(tmp_path / "store")
    place, counts, slide = store.patches("A"), read_expression(expression_path(store.path, "A")), store.slide("A")
    assert place.barcode.tolist() == BARCODES
    np.testing.assert_array_equal(place.center_px, CENTERS)
    np.testing.assert_array_equal(place.array, ARRAY)
    np.testing.assert_array_equal(counts.counts.toarray(), COUNTS)
    assert counts.genes.tolist() == GENES
    assert (slide.mpp, slide.mpp_source, slide.patient_id) == (0.5, "metadata", "P7")


def test_an_export_of_a_store_comes_back(tmp_path):
    h5ad(tmp_path / "in/A.h5ad", uns={"patient": "P7"})
    tiff(tmp_path / "in/A.tif", mpp=None)
    featurize(tmp_path / "in", tmp_path / "store", options=FeaturizeOptions(views=("20x",), batch=4, pitch_um=100))
    code, _, err = run_command("export", tmp_path / "store", "--format", "h5ad", "--out", tmp_path / "out")
    assert code == 0, err
    tiff(tmp_path / "out/A.tif", mpp=None)
    (sample,) = load_cohort(tmp_path / "out").samples
    assert (sample.patient_id, sample.mpp) == ("P7", pytest.approx(0.5, rel=1e-5))
    found = sample.read_measured()
    np.testing.assert_array_equal(found.spots.center_px, CENTERS)
    np.testing.assert_array_equal(found.counts.toarray(), COUNTS)


@pytest.mark.parametrize(
    ("said", "patient", "mpp"),
    [
        ({}, "unknown:A", None),
        ({"uns": {"patient": "P1"}}, "P1", None),
        ({"obs": {"patient": ["P1", "NA", "P1", ""]}}, "P1", None),
        ({"obs": {"patient_id": "Unknown"}}, "unknown:A", None),
        ({"uns": {"patient": "<NA>"}}, "unknown:A", None),
        ({"uns": {"spatial": {"lib": {"scalefactors": {"microns_per_pixel": 0.25}}}}}, "unknown:A", 0.25),
    ],
)
def test_what_a_file_says_of_its_slide(tmp_path, said, patient, mpp):
    tiff(tmp_path / "A.tif")
    (sample,) = load_cohort(h5ad(tmp_path / "A.h5ad", **said)).samples
    assert (sample.patient_id, sample.mpp, sample.pitch_um) == (patient, mpp, None)


def test_patients_that_nobody_knows_are_not_one_patient(tmp_path):
    cells = ["unknown", "UNK", "?", "Not available", "<NA>", "N/A", "-", ""]
    rows = "".join(f"s{i},{cell},s.tif\n" for i, cell in enumerate([*cells, "unknown-7"]))
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,image\n" + rows)
    found = [sample.patient_id for sample in load_cohort(tmp_path).samples]
    assert found == [*(f"unknown:s{i}" for i in range(len(cells))), "unknown-7"]


def test_spots_that_do_not_follow_their_array_are_refused_though_the_scale_is_known(tmp_path):
    """Only the missing pitch of a single spot is passed over where the image says its um/px."""
    one = {"barcode": BARCODES[:1], "center": CENTERS[:1], "array": ARRAY[:1]}
    for name, options, mpp in (
        ("alone", one, 0.5),
        ("silent", one, None),
        ("mixed", {"array": ARRAY[[1, 0, 2, 3]]}, 0.5),
    ):
        h5ad(tmp_path / f"{name}.h5ad", **options)
        tiff(tmp_path / f"{name}.tif", mpp=mpp)

    def scale(name):
        (sample,) = load_cohort(tmp_path / f"{name}.h5ad", pitch_um=100).samples
        with open_slide(sample.image) as slide:
            return look_at(sample, slide, OPTIONS, encoders={}).scale

    assert scale("alone").candidates == {"metadata": 0.5}
    with pytest.raises(ScaleError, match="have no pitch"):
        scale("silent")
    with pytest.raises(ScaleError, match="pixel positions do not follow the array positions"):
        scale("mixed")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"obs": {"patient": ["P1", "P2", "P1", "P1"]}},
            r"obs/patient names 2 patients \(P1, P2\): a slide has one; write one file",
        ),
        ({"obs": {"library_id": ["x", "x", "y", "y"]}}, r"obs\['library_id'\] names 2 of them"),
        ({"uns": {"spatial": {"a": {}, "b": {}}}}, r'uns\["spatial"\] names 2 of them \(a, b\)'),
        ({"uns": {"tissuary": {"mpp": -1.0}}}, "its um/px is -1; wanted a positive number"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, said, message):
    tiff(tmp_path / "A.tif")
    with pytest.raises(CohortError, match=message):
        load_cohort(h5ad(tmp_path / "A.h5ad", **said))


def test_a_file_without_image_or_damaged_costs_its_own_slide(tmp_path, caplog):
    for name in "ABC":
        h5ad(tmp_path / f"{name}.h5ad")
    for name in "ACX":
        tiff(tmp_path / f"{name}.tif")
    (tmp_path / "C.h5ad").write_bytes((tmp_path / "C.h5ad").read_bytes()[:1000])
    cohort = load_cohort(tmp_path)
    assert [one.slide_id for one in cohort.samples] == ["A"]
    causes = dict(cohort.refused)
    assert "needs the full-resolution image B.<tif, svs, ...>" in causes["B"]
    assert "C.h5ad cannot be read as AnnData" in causes["C"]
    assert "1 image(s) without an AnnData are left out, the first is X" in caplog.text
    with pytest.raises(CohortError, match=r"holds no \.h5ad directly in it"):
        load_cohort(tmp_path.parent, format="h5ad")


class TestGaps:
    def cohort(self, *samples):
        return Cohort(samples, "slides: as asked", (("bad", "no image"),))

    def test_who_lacks_what(self, tmp_path):
        photo, scan = tmp_path / "a.jpg", tmp_path / "b.svs"
        cohort = self.cohort(
            Sample("a", "unknown:a", photo),
            Sample("b", "P1", scan),
            Sample("c", "P1", photo, mpp=0.5, declared_in="HEST metadata"),
            Sample("d", "unknown:d", photo, pitch_um=100, read_measured=lambda: None),
            Sample("e", "P1", photo),
        )
        assert gaps_of(cohort) == [
            ("a", "missing", "missing"),
            ("b", "P1", "left to the image"),
            ("d", "missing", "from a spot pitch of 100 um"),
            ("e", "P1", "missing"),
        ]
        assert [row[0] for row in gaps_of(cohort, mpp=0.5)] == ["a", "d"]

    def test_the_table_in_words(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="tissuary"):
            announce(self.cohort(Sample("slide-1", "unknown:slide-1", tmp_path / "a.jpg")))
        assert "1 slides, 1 refused, read as slides: as asked" in caplog.text
        assert "  slide    patient  um/px\n  slide-1  missing  missing\n  patient: each such slide" in caplog.text
        assert "um/px: these slides will be refused; give --mpp, --pitch-um" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="tissuary"):
            announce(self.cohort(Sample("s", "P1", tmp_path / "a.svs")))
        assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
        assert "um/px of 1 slides is left to their images" in caplog.text

    def test_long_tables_are_cut(self):
        lines = gap_table([(f"s{i}", "missing", "0.5 (manifest)") for i in range(25)]).splitlines()
        assert lines[21] == "  ... and 5 more"
        assert len(lines) == 23

    def test_the_command_says_it_without_being_asked(self, tmp_path, caplog):
        tiff(tmp_path / "in/S1.tif", mpp=None, pixels=picture(600, 500))
        where = ("featurize", tmp_path / "in", "--store", tmp_path / "store")
        code, _, err = run_command(*where, "--dry-run", "--mpp", 0.5, "--views", "20x", "--batch", 4)
        logging.getLogger("tissuary.featurize.sources.gaps").setLevel(logging.NOTSET)
        assert code == 0, err
        first, second = (one for one in caplog.records if one.name == "tissuary.featurize.sources.gaps")
        said = "1 slides, read as slides: the folder holds 1 image(s) and neither manifest nor ST-imgs"
        assert (first.levelname, first.getMessage()) == ("INFO", said)
        assert second.levelname == "WARNING"
        assert "  S1     missing  0.5 (command line)\n" in second.getMessage()
