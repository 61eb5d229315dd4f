"""What a folder holds: every image that can be read, one a slide, and the reason for everything else."""

import json
import logging
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from tissuary.cli.main import app
from tissuary.featurize.slides.dicom import read_dicom
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.gaps import announce
from tissuary.featurize.sources.images import Listing, SlideImage
from tissuary.featurize.sources.load import detect, load_cohort
from tissuary.featurize.sources.sample import NO_IMAGE
from tissuary.store.errors import CohortError, SlideError
from tissuary.tests.source_files import h5ad, tiff, visium_hd

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def image(path):
    return tiff(path, pixels=PIXELS)


def ome_zarr(path, pixels=PIXELS):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("0", shape=(3, *pixels.shape[:2]), chunks=(3, 64, 64), dtype="u1")
    array[...] = pixels.transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}] + [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path


def element(group, number, kind, value, *, undefined=False):
    """One element of a DICOM data set, explicit little endian."""
    value = value if isinstance(value, bytes) else value.encode()
    value += (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    if kind in ("OB", "SQ", "UN"):
        length = 0xFFFFFFFF if undefined else len(value)
        return struct.pack("<HH2sHI", group, number, kind.encode(), 0, length) + value
    return struct.pack("<HH2sH", group, number, kind.encode(), len(value)) + value


def dicom(path, series, *, kind="ORIGINAL\\PRIMARY\\VOLUME\\NONE", sop="1.2.840.10008.5.1.4.1.1.77.1.6"):
    """The header of a DICOM file, up to the series; before it a sequence of undefined length with a series inside."""
    meta = element(2, 2, "UI", sop) + element(2, 0x10, "UI", "1.2.840.10008.1.2.1")
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + element(0x20, 0xE, "UI", "9.9.9")
    inner += element(8, 0x1199, "SQ", struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), undefined=True)
    inner += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = element(8, 8, "CS", kind) + element(8, 0x1115, "SQ", inner, undefined=True)
    data += element(0x18, 0xA001, "SQ", b"") + element(0x20, 0xD, "UI", "1.2") + element(0x20, 0xE, "UI", series)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta)))
    path.write_bytes(head + meta + data + element(0x20, 0x10, "SH", "1"))
    return path


def slides(source):
    return {one.slide_id: one.image for one in load_cohort(source).samples}


def test_all_that_can_be_read_are_taken_and_the_others_have_a_reason(tmp_path):
    for name in ("A.tif", "B.BTF", "C.qptiff", "E.tf8", "F.ome.tiff", "G.SVS"):
        image(tmp_path / name)
    ome_zarr(tmp_path / "D.ome.zarr")
    dicom(tmp_path / "H.v2" / "1.dcm", "1.2.3")
    image(tmp_path / "more" / "x.tif")
    image(tmp_path / "scan.part")
    zarr.open_group(tmp_path / "table.zarr", mode="w").attrs["name"] = "none"
    for name in ("V.vsi", "W.CZI", ".hidden.tif", "X.svs.gz", "notes.txt", "counts.tsv.gz"):
        (tmp_path / name).write_bytes(b"II*\0" * ("t" not in name))
    cohort = load_cohort(tmp_path)
    assert [one.slide_id for one in cohort.samples] == ["A", "B", "C", "D", "E", "F", "G", "H.v2"]
    reasons = dict(cohort.left_out)
    assert (reasons.pop("notes.txt"), reasons.pop("counts.tsv.gz")) == (NO_IMAGE, NO_IMAGE)
    assert set(reasons) == {"V.vsi", "W.CZI", "X.svs.gz", "more", "scan.part", "table.zarr"}
    assert "Olympus VSI is not read here: export it" in reasons["V.vsi"]
    assert "a folder with 1 image(s) in it: give it by itself" in reasons["more"]
    assert "holds a TIFF, but does not end so: rename it" in reasons["scan.part"]
    assert "no OME-Zarr image" in reasons["table.zarr"]


def test_a_pipe_in_a_folder_is_not_opened(tmp_path):
    image(tmp_path / "A.tif")
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(pipe, b"II*\0" * 2)  # else whoever reads it would wait for ever
        cohort = load_cohort(tmp_path)
    finally:
        os.close(pipe)
    assert ([one.slide_id for one in cohort.samples], cohort.left_out) == (["A"], (("pipe", NO_IMAGE),))


def test_what_is_not_read_is_said_in_log_table_and_json(tmp_path, caplog):
    image(tmp_path / "in" / "A.tif")
    (tmp_path / "in" / "V.vsi").touch()
    wanted = ["featurize", str(tmp_path / "in"), "--store", str(tmp_path / "s"), "--patches", "grid", "--dry-run"]
    with caplog.at_level(logging.WARNING):
        shown = CliRunner().invoke(app, wanted)
    assert "NOT READ V.vsi: Olympus VSI" in shown.stdout
    assert "not read:\n  V.vsi: Olympus VSI" in caplog.text
    said = json.loads(CliRunner().invoke(app, [*wanted, "--json"]).stdout)
    assert said["left_out"][0][0] == "V.vsi"


def test_a_folder_of_nothing_that_is_read_says_why(tmp_path):
    (tmp_path / "V.vsi").touch()
    with pytest.raises(CohortError, match=r"no image directly in it.*V\.vsi: Olympus VSI is not read here"):
        load_cohort(tmp_path)


def test_an_ome_zarr_image_is_one_slide(tmp_path):
    path = ome_zarr(tmp_path / "S1.ome.zarr")
    assert detect(path) == ("slides", "S1.ome.zarr is one slide")
    assert slides(path) == {"S1": path}


def test_a_dicom_folder_or_any_file_of_it_is_one_slide(tmp_path):
    folder = tmp_path / "S.1"
    files = [dicom(folder / name, "1.2.3") for name in ("a.dcm", "b")]
    dicom(folder / "label.dcm", "1.2.4", kind="ORIGINAL\\PRIMARY\\LABEL\\NONE")
    for source in (folder, *files, folder / "label.dcm", tmp_path):
        assert slides(source) == {"S.1": folder}


def test_dicom_files_of_two_slides_side_by_side(tmp_path):
    for name, series in (("a.dcm", "1.2"), ("b.dcm", "1.3"), ("c.dcm", "1.2")):
        dicom(tmp_path / "in" / name, series)
    dicom(tmp_path / "in" / "ct.dcm", "1.4", sop="1.2.840.10008.5.1.4.1.1.2")
    assert slides(tmp_path / "in") == {name: tmp_path / "in" / f"{name}.dcm" for name in "ab"}
    assert slides(tmp_path / "in" / "c.dcm") == {"a": tmp_path / "in" / "a.dcm"}
    image(tmp_path / "A.tif")
    assert dict(load_cohort(tmp_path).left_out) == {"in": "a folder of 2 DICOM slides: give it by itself"}
    with pytest.raises(SlideError, match="holds 2 DICOM slides: give one file"):
        open_slide(tmp_path / "in")


def test_two_names_of_one_image_are_said(tmp_path, caplog):
    for name in ("a.dcm", "b.dcm"):
        dicom(tmp_path / "S" / name, "1.2.3")
    image(tmp_path / "c.tif")
    rows = ["slide_id,image", "A,S/a.dcm", "B,S/b.dcm", "C,c.tif", "D,S/../c.tif"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    with caplog.at_level(logging.WARNING):
        announce(load_cohort(tmp_path))
    assert "slides A, B are one image" in caplog.text
    assert "slides C, D are one image" in caplog.text


@pytest.mark.parametrize("kept", [140, 180, 260, 330])
def test_a_dicom_header_that_is_cut_is_none(tmp_path, kept):
    path = dicom(tmp_path / "a.dcm", "1.2.3")
    assert read_dicom(path).series == "1.2.3"
    path.write_bytes(path.read_bytes()[:kept])
    assert read_dicom(path) is None


def test_files_of_one_slide_are_no_slides_of_their_own(tmp_path):
    for name in ("A.mrxs", "A/Slidedat.ini", "B_map2.jpg", "B(1,0).jpg", "_C_/frame.ets", "C.vsi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "B.vms").write_text("[Virtual Microscope Specimen]\nMapFile=B_map2.jpg\nImageFile(1,0)=B(1,0).jpg\n")
    cohort = load_cohort(tmp_path)
    assert [one.slide_id for one in cohort.samples] == ["A", "B"]
    assert [name for name, _ in cohort.left_out] == ["C.vsi"]


def test_hest_images_of_one_name_cost_their_slide_alone(tmp_path):
    for name in ("A.tif", "A.jpg", "B.tif"):
        image(tmp_path / "wsis" / name)
    (tmp_path / "st").mkdir()
    for name in "AB":
        (tmp_path / "st" / f"{name}.h5ad").touch()
    cohort = load_cohort(tmp_path, format="hest")
    assert [one.slide_id for one in cohort.samples] == ["B"]
    assert "A.jpg, A.tif are all called A" in dict(cohort.refused)["A"]


@pytest.mark.parametrize("ending", [".btf", ".BTF", ".tf8", ".qptiff"])
def test_visium_hd_takes_the_image_as_10x_names_it(tmp_path, ending):
    image(visium_hd(tmp_path / "run1", bins=(16,)) / f"run1_tissue_image{ending}")
    assert slides(tmp_path) == {"run1": (tmp_path / "run1" / f"run1_tissue_image{ending}")}


@pytest.mark.parametrize("ending", [".btf", ".ome.tf8", ".QPTIFF"])
def test_an_anndata_takes_the_image_beside_it(tmp_path, ending):
    h5ad(tmp_path / "S1.h5ad")
    image(tmp_path / f"S1{ending}")
    assert slides(tmp_path) == {"S1": tmp_path / f"S1{ending}"}


def test_an_image_that_is_needed_and_not_read_is_named(tmp_path):
    (visium_hd(tmp_path / "run1", bins=(16,)) / "run1.czi").touch()
    with pytest.raises(CohortError, match=r"found none \(run1\.czi: Zeiss CZI is not read here"):
        load_cohort(tmp_path)


def test_names_are_looked_up_at_once_however_many_images_a_folder_has():
    listing = Listing(tuple(SlideImage(f"s{i}", Path(f"s{i}.svs")) for i in range(20_000)))
    started = time.process_time()
    assert not any(listing.unclear(f"s{i}") for i in range(20_000))
    assert time.process_time() - started < 2  # a second pass over all images for each of them takes half a minute


def test_tiff_written_as_btf_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "A.btf", PIXELS, bigtiff=True, photometric="rgb", tile=(32, 32))
    with open_slide(slides(tmp_path)["A"]) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 96, 64), PIXELS)
