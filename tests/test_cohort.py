import errno
import gzip
import logging
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas
import polars
import pytest
from scipy.sparse import csr_matrix

from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.load import SOURCES, detect, load_cohort
from tissuary.featurize.sources.sample import Spots
from tissuary.featurize.sources.spot_checks import check_spots_inside
from tissuary.featurize.sources.spots import CountMatrix, join
from tissuary.store.errors import CohortError, InvalidNameError, ScaleError
from tissuary.store.scale import spot_pitch_px

SPOTS = """x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected
7\t3\t7.1\t3.0\t700.5\t300.25\t1
8\t3\t8.0\t3.1\t800\t301\t1
9\t3\t9.0\t3.1\t900\t302\t0
7\t4\t7.0\t4.0\t699\t400\t1
"""
COUNTS = "\tACTB\tERBB2\tCD3E\n8x3\t1\t0\t2\n9x3\t9\t9\t9\n7x3\t0\t5\t0\n1x1\t4\t4\t4\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_section(root, patient="A", section="A1", *, spots=SPOTS, counts=COUNTS):
    """One section of legacy ST; nothing reads the image here."""
    write(root / "data/ST-imgs" / patient / section / "tissue.jpg", "")
    write(root / "data/ST-spotfiles" / f"{section}_selection.tsv", spots)
    write(root / "data/ST-cnts" / f"{section}.tsv.gz", counts)
    return root


def write_manifest(folder, *rows, columns="slide_id,patient_id,image,mpp,pitch_um,counts,spots"):
    return write(folder / "manifest.csv", "\n".join([columns, *rows]) + "\n")


def forbid(monkeypatch, method, name):
    """Let one method of paths of that name fail as without permission; chmod does not stop an administrator."""
    real = getattr(Path, method)

    def refuse(self, *args, **options):
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, method, refuse)


def measured(source, **options):
    (sample,) = load_cohort(source, **options).samples
    return sample.read_measured()


def counts_of(folder, text, *, name="counts.tsv.gz", spots="barcode,pixel_x,pixel_y\na,1,2\nb,3,4\n"):
    """What is read of a count table, for spots a and b."""
    write(folder / name, text)
    write(folder / "spots.csv", spots)
    return measured(write_manifest(folder, f"s,,s.tif,,,{name},spots.csv"))


class TestLegacySt:
    def test_sections_in_order_with_the_folder_as_patient(self, tmp_path):
        for patient, section in (("B", "B1"), ("A", "A2"), ("A", "A1")):
            write_section(tmp_path, patient, section)
        cohort = load_cohort(tmp_path, pitch_um=200)
        assert [(s.slide_id, s.patient_id) for s in cohort.samples] == [("A1", "A"), ("A2", "A"), ("B1", "B")]
        assert {(s.mpp, s.pitch_um) for s in cohort.samples} == {(None, 200)}
        assert cohort.samples[0].image == tmp_path / "data/ST-imgs/A/A1/tissue.jpg"
        assert cohort.source == "st: the folder holds data/ST-imgs"

    def test_the_data_folder_may_be_given_itself(self, tmp_path):
        write_section(tmp_path)
        cohort = load_cohort(tmp_path / "data")
        assert cohort.source == "st: the folder holds ST-imgs"
        assert [s.image for s in cohort.samples] == [s.image for s in load_cohort(tmp_path).samples]

    def test_spots_and_counts_are_matched_in_the_order_of_the_spots(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="tissuary"):
            found = measured(write_section(tmp_path))
        assert found.spots.barcode.tolist() == ["7x3", "8x3"]  # 9x3 is not selected, 7x4 has no counts
        assert found.spots.center_px.tolist() == [[700.5, 300.25], [800.0, 301.0]]
        assert found.spots.center_px.dtype == np.float64
        assert found.spots.array.tolist() == [[3, 7], [3, 8]]  # row = y, column = x
        assert found.spots.array.dtype == np.int32
        assert found.counts.toarray().tolist() == [[0, 5, 0], [1, 0, 2]]
        assert found.counts.dtype == np.float32
        assert found.genes.tolist() == ["ACTB", "ERBB2", "CD3E"]
        assert "A1: 2 spots with counts; dropped 1 spots without counts and 2 count rows without a spot" in caplog.text

    def test_counts_may_be_uncompressed_and_spots_without_selection(self, tmp_path):
        root = write_section(tmp_path, spots="x\ty\tpixel_x\tpixel_y\n8\t3\t1\t2\n9\t3\t3\t4\n")
        (root / "data/ST-cnts/A1.tsv.gz").unlink()
        write(root / "data/ST-cnts/A1.tsv", COUNTS)
        assert measured(root).counts.toarray().tolist() == [[1, 0, 2], [9, 9, 9]]

    def test_one_image_a_section(self, tmp_path):
        write_section(tmp_path)
        write(tmp_path / "data/ST-imgs/A/A1/other.png", "")
        with pytest.raises(CohortError, match=r"A1 must hold exactly one image, found other\.png, tissue\.jpg"):
            load_cohort(tmp_path)
        (tmp_path / "data/ST-imgs/B/B1").mkdir(parents=True)
        for image in (tmp_path / "data/ST-imgs/A/A1").iterdir():
            image.unlink()
        with pytest.raises(CohortError, match="exactly one image, found none"):
            load_cohort(tmp_path)

    def test_a_section_without_an_image_costs_only_itself(self, tmp_path):
        for section in ("A1", "A2", "A3"):
            write_section(tmp_path, section=section)
        (tmp_path / "data/ST-imgs/A/A1/tissue.jpg").unlink()
        write(tmp_path / "data/ST-imgs/A/A3/other.png", "")
        cohort = load_cohort(tmp_path)
        assert [s.slide_id for s in cohort.samples] == ["A2"]
        assert [slide for slide, _ in cohort.refused] == ["A1", "A3"]
        assert "A1 must hold exactly one image, found none" in cohort.refused[0][1]
        assert "found other.png, tissue.jpg" in cohort.refused[1][1]

    def test_where_every_section_is_refused_the_first_cause_is_raised(self, tmp_path):
        for section in ("A1", "A2"):
            write_section(tmp_path, section=section)
            (tmp_path / f"data/ST-imgs/A/{section}/tissue.jpg").unlink()
        with pytest.raises(CohortError, match="A1 must hold exactly one image") as caught:
            load_cohort(tmp_path)
        (note,) = caught.value.__notes__
        assert note.startswith("A2: ")
        assert "A2 must hold exactly one image, found none" in note

    def test_a_section_that_cannot_be_listed_costs_only_itself(self, tmp_path, monkeypatch):
        for section in ("A1", "A2"):
            write_section(tmp_path, section=section)
        forbid(monkeypatch, "iterdir", "A1")
        cohort = load_cohort(tmp_path)
        assert [s.slide_id for s in cohort.samples] == ["A2"]
        ((slide, cause),) = cohort.refused
        assert slide == "A1"
        assert "A1 cannot be read (Permission denied)" in cause

    def test_a_missing_file_costs_only_its_own_section(self, tmp_path):
        write_section(tmp_path, section="A1")
        write_section(tmp_path, section="A2")
        (tmp_path / "data/ST-cnts/A1.tsv.gz").unlink()
        (tmp_path / "data/ST-spotfiles/A1_selection.tsv").rename(tmp_path / "elsewhere.tsv")
        first, second = load_cohort(tmp_path).samples
        with pytest.raises(CohortError, match=r"A1_selection\.tsv does not exist"):
            first.read_measured()
        (tmp_path / "elsewhere.tsv").rename(tmp_path / "data/ST-spotfiles/A1_selection.tsv")
        with pytest.raises(CohortError, match=r"A1\.tsv\.gz does not exist"):
            first.read_measured()
        assert len(second.read_measured().genes) == 3

    def test_a_section_in_two_patients(self, tmp_path):
        write_section(tmp_path, "A", "1")
        write_section(tmp_path, "B", "1")
        with pytest.raises(CohortError, match="slide id 1 occurs more than once"):
            load_cohort(tmp_path)
        (tmp_path / "data/ST-imgs/B/1/tissue.jpg").unlink()  # a refused slide has its name all the same
        with pytest.raises(CohortError, match="slide id 1 occurs more than once"):
            load_cohort(tmp_path)

    def test_folders_that_are_not_the_layout(self, tmp_path):
        with pytest.raises(CohortError, match="holds neither ST-imgs nor data/ST-imgs"):
            load_cohort(tmp_path, format="st")
        (tmp_path / "ST-imgs").mkdir()
        with pytest.raises(CohortError, match="holds no <patient>/<section> folders"):
            load_cohort(tmp_path)


class TestSpotTables:
    def read(self, folder, text, name="spots.tsv"):
        write(folder / name, text)
        write(folder / "counts.csv", "barcode,G\na,1\nb,2\n7x3,3\n")
        return measured(write_manifest(folder, f"s,,s.tif,,,counts.csv,{name}")).spots

    def test_barcodes_with_array(self, tmp_path):
        text = "barcode,array_row,array_col,pixel_x,pixel_y\nb,5,6,10.5,20\na,7,8,30,40\n"
        spots = self.read(tmp_path, text, "spots.csv.gz")
        assert spots.barcode.tolist() == ["b", "a"]
        assert spots.array.tolist() == [[5, 6], [7, 8]]
        assert spots.center_px.tolist() == [[10.5, 20], [30, 40]]

    def test_barcodes_without_array(self, tmp_path):
        # `7x3` looks like a position, but nobody said that it is one.
        assert self.read(tmp_path, "barcode\tpixel_x\tpixel_y\n7x3\t1\t2\n").array is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x\ty\tpixel_x\n1\t1\t1\n", r"columns x, y, pixel_x; wanted pixel_x and pixel_y, and either barcode"),
            ("pixel_x\tpixel_y\n1\t1\n", "wanted pixel_x and pixel_y, and either barcode or x and y"),
            ("barcode\tpixel_x\tpixel_y\n", "holds no spots: nothing"),
            ("barcode\tpixel_x\tpixel_y\tselected\na\t1\t1\t0\n", "holds no spots that are selected"),
            ("barcode\tpixel_x\tpixel_y\na\t1\t2\nb\t1\tleft\n", "pixel_y of spot 2 is 'left'; wanted a number"),
            ("barcode\tpixel_x\tpixel_y\na\t\t2\n", "pixel_x of spot 1 is None; wanted a number"),
            ("barcode\tpixel_x\tpixel_y\na\tnan\t2\n", "pixel_x of spot 1 is 'nan'; wanted a number"),
            ("x\ty\tpixel_x\tpixel_y\n1\t2.5\t1\t1\n", r"y of spot 1 is 2\.5; array positions are whole numbers"),
            ("barcode\tpixel_x\tpixel_y\na\t1\t2\nb\t1\t2\na\t3\t4\n", "spot a occurs more than once"),
            ("x\ty\tpixel_x\tpixel_y\n7\t3\t1\t1\n7\t3\t2\t2\n", "spot 7x3 occurs more than once"),
            ("barcode\tpixel_x\tpixel_y\n\t1\t2\n", r"spot \(empty\) occurs more than once or is empty"),
            ("", "cannot be read as a table"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, text, message):
        with pytest.raises(CohortError, match=message):
            self.read(tmp_path, text)


class TestCountTables:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("counts.tsv", "\tG1\tG2\na\t1\t2\nb\t3\t4\n"),
            ("counts.tsv.gz", "G1\tG2\na\t1\t2\nb\t3\t4"),  # R writes no field above the row names
            ("counts.csv", '"spot","G1","G2"\r\n"a",1,2\r\n"b",3.0,4\r\n'),
            ("counts.csv.gz", "\ufeffspot,G1,G2\na,1,2\nb,3,4\n"),
        ],
    )
    def test_shapes_of_the_file(self, tmp_path, name, text):
        found = counts_of(tmp_path, text, name=name)
        assert found.genes.tolist() == ["G1", "G2"]
        assert found.counts.toarray().tolist() == [[1, 2], [3, 4]]

    def test_columns_of_one_gene_are_summed(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="tissuary"):
            found = counts_of(tmp_path, "\tZ\tA\tZ\tB\tA\na\t1\t2\t3\t4\t5\nb\t0\t0\t7\t0\t1\n")
        assert found.genes.tolist() == ["Z", "A", "B"]  # in the order of their first column
        assert found.counts.toarray().tolist() == [[4, 7, 4], [7, 1, 0]]
        assert "5 gene columns share 3 names and were summed" in caplog.text

    def test_fractions_are_said(self, tmp_path, caplog):
        counts_of(tmp_path, "\tG\na\t0.5\nb\t1\n")
        assert "holds fractions: raw counts are wanted" in caplog.text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("\tG\na\t1\nb\t2\na\t3\n", "barcode a occurs more than once"),
            ("\tG\tH\na\t1\t1\nb\t2\t-1\n", "row b holds an empty, negative or infinite count"),
            ("\tG\tH\na\t1\t\nb\t2\t1\n", "row a holds an empty"),
            ("\tG\tH\na\t1\t2\nb\t2\n", "row b holds an empty"),
            ("\tG\tH\na\t1\tinf\nb\t2\t1\n", "row a holds an empty, negative or infinite"),
            ("\tG\tH\na\t1\t2\nb\t2\tmany\n", r"cannot be read as counts .*numbers in every row"),
            ("\tG\tH\na\t1\t2\nb\t2\t1\t5\n", r"cannot be read as counts"),
            ("\tG\t\na\t1\t2\n", "1 of 2 genes have no name"),
            ("\tG\tH\tI\na\t1\n", "header has 4 fields and its first row 2"),
            ("\tG\tH\n", "header has 3 fields and its first row"),
            ("", "header has 0 fields"),
            ("\tG\nc\t1\n", r"slide s: none of its 2 spots \(a, ...\) is among the 1 rows of its counts \(c, ...\)"),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, text, message):
        with pytest.raises(CohortError, match=message):
            counts_of(tmp_path, text)

    def test_a_truncated_gzip(self, tmp_path):
        (sample,) = load_cohort(write_section(tmp_path)).samples
        path = tmp_path / "data/ST-cnts/A1.tsv.gz"
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(CohortError, match=r"A1\.tsv\.gz is not a whole gzip file"):
            sample.read_measured()

    def test_bytes_that_are_no_text(self, tmp_path):
        (sample,) = load_cohort(write_section(tmp_path)).samples
        (tmp_path / "data/ST-cnts/A1.tsv.gz").write_bytes(b"\tG\xff\na\t1\n")
        with pytest.raises(CohortError, match="is no UTF-8 text"):
            sample.read_measured()


class TestH5ad:
    def adata(self, **parts):
        spots = pandas.DataFrame({"array_row": [1, 2], "array_col": [3, 4]}, index=["a", "b"])
        genes = pandas.DataFrame(index=["G", "H"])
        positions = {"spatial": np.array([[10.5, 20.0], [30.0, 40.0]])}
        made = {"X": csr_matrix([[1, 0], [2, 3]]), "obs": spots, "var": genes, "obsm": positions} | parts
        return anndata.AnnData(**made)

    def read(self, folder, adata, spots=""):
        adata.write_h5ad(folder / "s.h5ad")
        return measured(write_manifest(folder, f"s,p,s.tif,,,s.h5ad,{spots}"))

    @pytest.mark.parametrize("kind", [csr_matrix, np.array])
    def test_counts_and_positions(self, tmp_path, kind):
        found = self.read(tmp_path, self.adata(X=kind(np.array([[1, 0], [2, 3]], dtype=np.float32))))
        assert found.spots.barcode.tolist() == ["a", "b"]
        assert found.spots.center_px.tolist() == [[10.5, 20], [30, 40]]
        assert found.spots.array.tolist() == [[1, 3], [2, 4]]
        assert found.spots.array.dtype == np.int32
        assert found.counts.toarray().tolist() == [[1, 0], [2, 3]]
        assert found.counts.dtype == np.float32
        assert found.genes.tolist() == ["G", "H"]

    def test_array_is_optional(self, tmp_path):
        assert self.read(tmp_path, self.adata(obs=pandas.DataFrame(index=["a", "b"]))).spots.array is None

    def test_a_table_of_spots_goes_before_the_files_own_positions(self, tmp_path):
        write(tmp_path / "spots.csv", "barcode,pixel_x,pixel_y\nb,7,8\n")
        found = self.read(tmp_path, self.adata(obsm={}), spots="spots.csv")
        assert found.spots.center_px.tolist() == [[7, 8]]
        assert found.counts.toarray().tolist() == [[2, 3]]

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"obsm": {}}, r'has no obsm\["spatial"\]'),
            ({"obsm": {"spatial": np.zeros((2, 3))}}, r"has shape \(2, 3\); wanted x and y"),
            ({"obsm": {"spatial": np.array([[0, np.nan], [0, 0]])}}, "all finite numbers"),
            ({"X": None}, "has no X"),
            ({"X": csr_matrix([[1.0, -1.0], [0, 0]])}, "row a holds an empty, negative"),
            (
                {"obs": pandas.DataFrame({"array_row": [0.5, 1], "array_col": [0, 1]}, index=["a", "b"])},
                "whole numbers",
            ),
            (
                {"obs": pandas.DataFrame({"array_row": ["x", "y"], "array_col": [0, 1]}, index=["a", "b"])},
                "whole numbers",
            ),
        ],
    )
    def test_what_cannot_be_used(self, tmp_path, parts, message):
        with pytest.raises(CohortError, match=message):
            self.read(tmp_path, self.adata(**parts))

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            (
                {"obsm/spatial": [["left", "top"], ["right", "top"]]},
                r'obsm\["spatial"\] holds text; wanted a dense array',
            ),
            (
                {"obsm/spatial": np.ones((2, 2), dtype=complex)},
                r'obsm\["spatial"\] holds complex128; wanted a dense array',
            ),
            (
                {"X": [["many", "few"], ["few", "few"]]},
                r"X holds text of shape \(2, 2\); wanted raw counts, numbers of",
            ),
            ({"X": np.ones((2, 2), dtype=complex)}, r"X holds complex128 of shape \(2, 2\); wanted raw counts"),
        ],
    )
    def test_what_holds_no_numbers(self, tmp_path, parts, message):
        path = tmp_path / "s.h5ad"
        self.adata().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            for name, values in parts.items():
                del file[name]
                text = isinstance(values, list)
                file[name] = np.array(values, dtype=object) if text else values
                file[name].attrs.update(
                    {"encoding-type": "string-array" if text else "array", "encoding-version": "0.2.0"}
                )
        with pytest.raises(CohortError, match=rf"s\.h5ad: {message}"):
            measured(write_manifest(tmp_path, "s,p,s.tif,,,s.h5ad,"))

    def test_positions_are_dense(self, tmp_path):
        with pytest.raises(
            CohortError, match=r's\.h5ad: obsm\["spatial"\] is sparse \(csr_matrix\); wanted a dense array'
        ):
            self.read(tmp_path, self.adata(obsm={"spatial": csr_matrix(np.ones((2, 2)))}))
        named = pandas.DataFrame({"x": [1, 2], "y": [3, 4.5]}, index=["a", "b"])
        assert self.read(tmp_path, self.adata(obsm={"spatial": named})).spots.center_px.tolist() == [[1, 3], [2, 4.5]]

    @pytest.mark.parametrize(("part", "value"), [("indices", 99), ("indices", -1), ("indptr", 3)])
    def test_a_sparse_matrix_that_points_beyond_itself(self, tmp_path, part, value):
        self.adata().write_h5ad(tmp_path / "s.h5ad")
        with h5py.File(tmp_path / "s.h5ad", "r+") as file:
            file["X"][part][{"indices": 0, "indptr": 1}[part]] = value if part == "indices" else -value
        with pytest.raises(CohortError, match=r"s\.h5ad: X is no sound matrix \(.*\); wanted raw counts"):
            measured(write_manifest(tmp_path, "s,p,s.tif,,,s.h5ad,"))

    def test_half_precision(self, tmp_path):
        found = self.read(tmp_path, self.adata(X=np.array([[1, 0], [2, 3]], dtype=np.float16)))
        assert found.counts.toarray().tolist() == [[1, 0], [2, 3]]

    def test_an_encoding_that_is_not_known(self, tmp_path):
        self.adata().write_h5ad(tmp_path / "s.h5ad")
        with h5py.File(tmp_path / "s.h5ad", "r+") as file:
            file["X"].attrs["encoding-type"] = "tomorrow"
        with pytest.raises(CohortError, match=r"s\.h5ad cannot be read as AnnData .*it is damaged or of another kind"):
            measured(write_manifest(tmp_path, "s,p,s.tif,,,s.h5ad,"))

    @pytest.mark.filterwarnings("ignore:Observation names are not unique")
    def test_duplicate_barcodes(self, tmp_path):
        with pytest.raises(CohortError, match="barcode a occurs more than once"):
            self.read(tmp_path, self.adata(obs=pandas.DataFrame(index=["a", "a"])))

    def test_no_spots(self, tmp_path):
        empty = self.adata()[:0].copy()
        with pytest.raises(CohortError, match="holds no spots"):
            self.read(tmp_path, empty)

    def test_a_damaged_or_missing_file(self, tmp_path):
        self.read(tmp_path, self.adata())
        path = tmp_path / "s.h5ad"
        path.write_bytes(path.read_bytes()[:1000])
        (sample,) = load_cohort(tmp_path).samples
        with pytest.raises(CohortError, match="cannot be read as AnnData"):
            sample.read_measured()
        path.unlink()
        with pytest.raises(CohortError, match=r"s\.h5ad does not exist"):
            sample.read_measured()


class TestJoining:
    """Spots and count rows share `shared` of their barcodes, and each has so many of its own."""

    def join(self, shared, spots, rows):
        names = [f"b{i}" for i in range(shared)]
        spot = np.array(names + [f"spot{i}" for i in range(spots)])
        row = np.array(names + [f"row{i}" for i in range(rows)])
        counts = CountMatrix(row, np.array(["G"]), csr_matrix(np.ones((len(row), 1), dtype=np.float32)))
        return join("s", Spots(spot, np.zeros((len(spot), 2)), None), counts)

    @pytest.mark.parametrize(("spots", "rows"), [(0, 0), (10, 0), (0, 10), (10, 10)])
    def test_a_tenth_may_lack_a_partner(self, caplog, spots, rows):
        with caplog.at_level(logging.INFO, logger="tissuary"):
            assert len(self.join(90, spots, rows).spots.barcode) == 90
        ((name, level, text),) = caplog.record_tuples
        assert (name, level) == ("tissuary.featurize.sources.spots", logging.INFO)
        assert f"90 spots with counts; dropped {spots} spots without counts and {rows} count rows" in text

    @pytest.mark.parametrize(("spots", "rows"), [(11, 0), (0, 11), (900, 3)])
    def test_more_is_a_warning_with_the_mend(self, caplog, spots, rows):
        self.join(90, spots, rows)
        ((_, level, text),) = caplog.record_tuples
        assert level == logging.WARNING
        assert f"slide s: 90 spots with counts; dropped {spots} spots without counts and {rows} count rows" in text
        assert f"of {90 + spots} spots and {90 + rows} count rows. Are the barcodes of one kind" in text

    def test_none_is_an_error(self):
        with pytest.raises(CohortError, match="slide s: none of its 3 spots"):
            self.join(0, 3, 3)


class TestUnreadable:
    """What the file system refuses is told as an error of the cohort."""

    LONG = "n" * 300

    def test_a_source(self, tmp_path, monkeypatch):
        with pytest.raises(CohortError, match=r"nnn cannot be read \(File name too long\): correct the path"):
            load_cohort(tmp_path / self.LONG)
        (tmp_path / "closed").mkdir()
        forbid(monkeypatch, "iterdir", "closed")
        with pytest.raises(CohortError, match=r"closed cannot be read \(Permission denied\).*permission to read it"):
            load_cohort(tmp_path / "closed")

    @pytest.mark.parametrize("name", [f"{LONG}.tsv", f"{LONG}.h5ad"])
    def test_counts_with_a_name_too_long(self, tmp_path, name):
        write(tmp_path / "spots.csv", "barcode,pixel_x,pixel_y\na,1,2\n")
        with pytest.raises(CohortError, match=r"nnn\.(tsv|h5ad) cannot be read \(File name too long\)"):
            measured(write_manifest(tmp_path, f"s,,s.tif,,,{name},spots.csv"))

    def test_spots_that_may_not_be_read(self, tmp_path, monkeypatch):
        forbid(monkeypatch, "read_bytes", "A1_selection.tsv")
        with pytest.raises(CohortError, match=r"A1_selection\.tsv cannot be read \(Permission denied\)"):
            measured(write_section(tmp_path))

    def test_a_manifest_may_name_an_image_that_cannot_be(self, tmp_path):
        write_manifest(tmp_path, f"a,,{self.LONG}.tif,,,,", "b,,b.tif,,,,")
        assert [s.slide_id for s in load_cohort(tmp_path).samples] == ["a", "b"]  # only opening it fails


class TestManifest:
    def test_rows_become_samples(self, tmp_path):
        path = write_manifest(tmp_path, "s1,p1,images/s1.tif,0.5,,,", "s2,,/far/s2.svs, ,100,,", "s3, p1 ,s3.jpg,,,,")
        cohort = load_cohort(path)
        assert [(s.slide_id, s.patient_id) for s in cohort.samples] == [
            ("s1", "p1"),
            ("s2", "unknown:s2"),  # never guessed
            ("s3", "p1"),
        ]
        assert [str(s.image) for s in cohort.samples] == [
            f"{tmp_path}/images/s1.tif",
            "/far/s2.svs",
            f"{tmp_path}/s3.jpg",
        ]
        assert [(s.mpp, s.pitch_um) for s in cohort.samples] == [(0.5, None), (None, 100.0), (None, None)]
        assert all(s.read_measured is None for s in cohort.samples)
        assert cohort.source == "manifest: manifest.csv is a table"
        assert load_cohort(tmp_path).source == "manifest: the folder holds manifest.csv"

    @pytest.mark.parametrize("cell", ["", "NA", "n/a", "N/A", "nan", "NaN", "none", "None", "NULL", "-", " na "])
    def test_patients_that_are_not_said(self, tmp_path, cell):
        write_manifest(tmp_path, f"s1,{cell},1.tif,,,,", f"s2,{cell},2.tif,,,,", "s3,Nana,3.tif,,,,", "s4,-1,4.tif,,,,")
        patients = [s.patient_id for s in load_cohort(tmp_path).samples]
        assert patients == ["unknown:s1", "unknown:s2", "Nana", "-1"]

    def test_parquet(self, tmp_path):
        table = polars.DataFrame({"slide_id": [1, 2], "image": ["1.tif", "2.tif"], "mpp": [0.25, None]})
        table.write_parquet(tmp_path / "cohort.parquet")
        samples = load_cohort(tmp_path / "cohort.parquet").samples
        assert [(s.slide_id, s.mpp) for s in samples] == [("1", 0.25), ("2", None)]

    def test_columns_that_are_not_known_are_said(self, tmp_path, caplog):
        write_manifest(tmp_path, "s,s.tif,p", columns="slide_id,image,patient")
        assert load_cohort(tmp_path).samples[0].patient_id == "unknown:s"
        assert "columns ignored: patient (known: slide_id, patient_id" in caplog.text

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (",p,s.tif,,,,", r"manifest\.csv, row 1: slide_id is '' and image 's.tif'; both must be said"),
            ("s,p,,,,,", "row 1: slide_id is 's' and image ''"),
            ("s,p,s.tif,fine,,,", "row 1: mpp is 'fine'; wanted a positive number, or an empty cell"),
            ("s,p,s.tif,0,,,", "mpp is '0'; wanted a positive number"),
            ("s,p,s.tif,,inf,,", "pitch_um is 'inf'; wanted a positive number"),
            ("s,p,s.tif,,,,spots.csv", r"spots are given \(spots.csv\) and no counts"),
            ("s,p,s.tif,,,c.tsv,", "counts c.tsv carry no positions"),
            ("s,p,s.tif,,,c.mtx,spots.csv", r"counts are c\.mtx; wanted \.h5ad, or \.tsv, \.csv plain or with \.gz"),
        ],
    )
    def test_rows_that_cannot_be_used(self, tmp_path, row, message):
        with pytest.raises(CohortError, match=message):
            load_cohort(write_manifest(tmp_path, row))

    def test_tables_that_are_no_manifest(self, tmp_path):
        with pytest.raises(CohortError, match="columns name, image; slide_id must be among them"):
            load_cohort(write_manifest(tmp_path, "a,b", columns="name,image"))
        with pytest.raises(CohortError, match=r"manifest\.csv cannot be read .*duplicate.*image"):
            load_cohort(write_manifest(tmp_path, "s,a,b", columns="slide_id,image,image "))
        with pytest.raises(CohortError, match=r"manifest\.csv has no rows"):
            load_cohort(write_manifest(tmp_path))
        for name in ("manifest.csv", "manifest.parquet"):
            with pytest.raises(CohortError, match=f"{name} cannot be read"):
                load_cohort(write(tmp_path / name, ""))
        with pytest.raises(CohortError, match=r"holds no manifest\.csv or manifest\.parquet"):
            load_cohort(tmp_path.parent, format="manifest")

    def test_slide_ids(self, tmp_path):
        with pytest.raises(CohortError, match="slide id s occurs more than once"):
            load_cohort(write_manifest(tmp_path, "s,,a.tif,,,,", "s,,b.tif,,,,"))
        with pytest.raises(InvalidNameError, match=r"slide id '\.\./s' cannot become a file name"):
            load_cohort(write_manifest(tmp_path, "../s,,a.tif,,,,"))

    def test_an_id_that_cannot_become_a_file_name_costs_only_its_slide(self, tmp_path):
        cohort = load_cohort(write_manifest(tmp_path, "../s,,a.tif,,,,", "t,,b.tif,,,,", "u/v,,c.tif,,,,"))
        assert [s.slide_id for s in cohort.samples] == ["t"]
        assert [slide for slide, _ in cohort.refused] == ["../s", "u/v"]
        assert "slide id 'u/v' cannot become a file name" in cohort.refused[1][1]
        assert load_cohort(write_manifest(tmp_path, "t,,b.tif,,,,")).refused == ()
        with pytest.raises(CohortError, match=r"slide id \.\./s occurs more than once"):
            load_cohort(write_manifest(tmp_path, "../s,,a.tif,,,,", "t,,b.tif,,,,", "../s,,c.tif,,,,"))

    def test_the_pitch_of_the_command_line_fills_what_the_manifest_leaves_out(self, tmp_path):
        counts = "c.tsv,s.tsv"
        write_manifest(tmp_path, f"a,,a.tif,,,{counts}", f"b,,b.tif,,101,{counts}", "plain,,c.tif,,,,")
        samples = load_cohort(tmp_path, pitch_um=100).samples
        assert [s.pitch_um for s in samples] == [100, 101, None]
        with pytest.raises(ScaleError, match="slide b: its manifest says a spot pitch of 101 um, --pitch-um 200"):
            load_cohort(tmp_path, pitch_um=200)


class TestPlainSlides:
    def test_a_folder(self, tmp_path):
        for name in ("b.svs", "a.TIF", "c.ome.tiff", ".hidden.svs", "notes.txt", "sub/d.svs"):
            write(tmp_path / name, "")
        cohort = load_cohort(tmp_path)
        assert [s.slide_id for s in cohort.samples] == ["a", "b", "c"]
        assert {s.patient_id for s in cohort.samples} == {"unknown:a", "unknown:b", "unknown:c"}
        assert cohort.source == "slides: the folder holds 3 image(s) and neither manifest nor ST-imgs"

    def test_one_image_whatever_its_ending(self, tmp_path):
        cohort = load_cohort(write(tmp_path / "scan.dcm", ""), pitch_um=100)
        assert cohort.samples[0].slide_id == "scan"
        assert cohort.samples[0].pitch_um is None  # there are no spots
        assert cohort.source == "slides: scan.dcm is a single file and no table"

    def test_two_images_of_one_name(self, tmp_path):
        write(tmp_path / "a.svs", "")
        write(tmp_path / "a.jpg", "")
        with pytest.raises(CohortError, match=r"a\.jpg, a\.svs are all called a, .*name the one that is meant"):
            load_cohort(tmp_path)
        write(tmp_path / "b.svs", "")
        cohort = load_cohort(tmp_path)
        assert ([one.slide_id for one in cohort.samples], [name for name, _ in cohort.refused]) == (["b"], ["a"])

    def test_a_folder_without_images(self, tmp_path):
        with pytest.raises(CohortError, match="holds no image directly in it"):
            load_cohort(tmp_path, format="slides")


class TestFormats:
    def test_a_manifest_goes_before_what_lies_around_it(self, tmp_path):
        write_section(tmp_path)
        write(tmp_path / "a.svs", "")
        assert detect(tmp_path) == ("st", "the folder holds data/ST-imgs")
        write_manifest(tmp_path, "s,,a.svs,,,,")
        assert detect(tmp_path) == ("manifest", "the folder holds manifest.csv")

    def test_a_format_may_be_asked_for(self, tmp_path):
        write_section(tmp_path)
        write(tmp_path / "a.svs", "")
        assert load_cohort(tmp_path, format="slides").source == "slides: as asked"

    def test_what_is_not_there_or_not_known(self, tmp_path):
        with pytest.raises(CohortError, match="gone does not exist: give a folder, a manifest or an image"):
            load_cohort(tmp_path / "gone")
        with pytest.raises(
            CohortError, match=f"format 'visium' is not known: choose one of auto, {', '.join(SOURCES)}"
        ):
            load_cohort(tmp_path, format="visium")
        with pytest.raises(CohortError, match=r"holds no manifest.csv .* no ST-imgs .* and no image directly in it"):
            load_cohort(tmp_path)


class TestSpotsInside:
    SPOTS = Spots(np.array(["a", "b", "c"]), np.array([[0.0, 0.0], [100.0, 50.0], [99.5, 12.0]]), None)

    def test_the_border_is_inside(self):
        check_spots_inside("s", self.SPOTS, width_px=100, height_px=50)

    def test_the_first_outside_is_named(self):
        with pytest.raises(
            CohortError, match=r"slide s: 2 of 3 spots lie outside its 99 x 60 px, the first is b at x=100\.0 y=50\.0"
        ):
            check_spots_inside("s", self.SPOTS, width_px=99, height_px=60)

    @pytest.mark.parametrize("x", [-0.5, np.nan])
    def test_negative_and_undefined_positions_are_outside(self, x):
        spots = replace(self.SPOTS, center_px=np.array([[1.0, 1.0], [x, 1.0], [2.0, 2.0]]))
        with pytest.raises(CohortError, match="1 of 3 spots"):
            check_spots_inside("s", spots, width_px=100, height_px=50)


HER2ST = {"B4": ("B", 283), "C2": ("C", 187), "C3": ("C", 180), "C4": ("C", 184), "C5": ("C", 181)}


def test_real_her2st(real_data, caplog):
    cohort = load_cohort(real_data / "her2st", pitch_um=200)
    assert [s.slide_id for s in cohort.samples] == list(HER2ST)
    with caplog.at_level(logging.INFO, logger="tissuary"):
        found = {s.slide_id: s.read_measured() for s in cohort.samples}
    assert {s.slide_id: (s.patient_id, len(found[s.slide_id].spots.barcode)) for s in cohort.samples} == HER2ST
    assert "slide C4: 184 spots with counts; dropped 3 spots without counts" in caplog.text
    for one in found.values():
        assert 288 < spot_pitch_px(one.spots.center_px, one.spots.array) < 293
        assert 15_000 < len(one.genes) == len(set(one.genes.tolist())) < 16_000
    # B4 is the shallow one.
    assert np.median(np.asarray(found["B4"].counts.sum(axis=1))) == 648
    # A row of the file itself, read by hand: its counts must sit on the right spot.
    with gzip.open(real_data / "her2st/data/ST-cnts/C2.tsv.gz", "rt") as file:
        genes, line = next(file).strip().split("\t"), next(file).split("\t")
    row = found["C2"].spots.barcode.tolist().index(line[0])
    assert found["C2"].genes.tolist() == genes
    np.testing.assert_array_equal(found["C2"].counts[row].toarray()[0], np.array(line[1:], dtype=float))
    with open_slide(cohort.samples[1].image) as slide:
        check_spots_inside("C2", found["C2"].spots, width_px=slide.width, height_px=slide.height)


def test_real_mob_through_a_manifest(real_data, tmp_path):
    mob = real_data / "mob"
    rows = [
        f"MOB{i},mouse{1 + i // 3},{mob}/MOB{i}.jpg,,150,{mob}/MOB{i}.tsv.gz,{mob}/alignment_table_MOB{i}.tsv"
        for i in range(1, 5)
    ]
    samples = load_cohort(write_manifest(tmp_path, *rows)).samples
    assert [(s.patient_id, s.pitch_um) for s in samples] == [("mouse1", 150)] * 2 + [("mouse2", 150)] * 2
    found = [s.read_measured() for s in samples]
    assert [len(one.spots.barcode) for one in found] == [379, 407, 438, 403]
    assert all(one.counts.shape[1] == 1000 for one in found)
    for one in found:
        assert 32 < spot_pitch_px(one.spots.center_px, one.spots.array) < 33
        assert set((one.spots.array.sum(axis=1) % 2).tolist()) == {0}  # staggered
