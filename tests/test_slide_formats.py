"""Valid slides of every kind: the pixels and um/px that were written, or a refusal that names the reason."""

import json
import logging
import re

import numpy as np
import pytest
import tifffile

from tissuary.benchmarks.slide_formats import cases, examine
from tissuary.benchmarks.slide_writers import Ngff, aperio, ome, picture, tiff
from tissuary.featurize.slides.metadata import um_per_unit
from tissuary.featurize.slides.open import open_slide
from tissuary.store.errors import SlideError

CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=[f"{one.group}: {one.name}" for one in CASES])
def test_a_slide_is_read_right_or_refused_with_the_reason(case, tmp_path):
    verdict, seen = examine(case, case.write(tmp_path))
    assert verdict == ("refused" if case.refused else "right"), seen
    assert re.search(case.refused, seen)


def test_two_scenes_are_said_and_a_label_is_none(tmp_path, caplog):
    main, other = (picture(), 0.5, "µm", "scene 1"), (np.ascontiguousarray(picture()[:70, :90]), 0.5, "µm", "scene 2")
    label = (np.ascontiguousarray(picture()[:10, :20]), 8.0, "µm", "label image")
    with caplog.at_level(logging.WARNING):
        open_slide(ome(label, main)(tmp_path)).close()
        assert not caplog.text
        open_slide(ome(main, other, label)(tmp_path)).close()
    assert "holds 2 scenes: read is scene 1 (112 x 80 px), the largest; left out is scene 2 (90 x 70 px)" in caplog.text


def test_a_scene_that_was_scanned_finer_is_said_and_an_overview_is_none(tmp_path, caplog):
    main, finer = (picture(), 0.5, "µm", "A"), (np.ascontiguousarray(picture()[:70, :90]), 0.25, "µm", "B")
    whole = (np.ascontiguousarray(picture()[:60, :80]), 8.0, "µm", "C")
    with caplog.at_level(logging.WARNING):
        open_slide(ome(main, finer, whole)(tmp_path)).close()
    assert re.search(r"holds 2 scenes: .*; left out is B \(90 x 70 px\)", caplog.text)


def test_several_images_of_bioformats2raw_are_said(tmp_path, caplog):
    path = Ngff("0.4", scale=0.5, unit="micrometer", nested=True)(tmp_path)
    small = Ngff("0.4", scale=4.0, unit="micrometer", steps=(2,))(tmp_path / "small")
    small.rename(path / "1")
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert (slide.width, slide.height, slide.metadata_mpp) == (112, 80, 0.5)
    assert "holds 2 images: read is 0, the largest; left out: 1 of (3, 40, 56)" in caplog.text


def test_a_stale_description_is_said(tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING),
        open_slide(aperio(picture(), described="224x160 (48x32)")(tmp_path)) as slide,
    ):
        assert slide.metadata_mpp is None
    assert "description is of 224 x 160 px, level 0 has 112 x 80 px: it was resized or cropped later" in caplog.text


def test_a_multiscale_of_spatialdata_keeps_its_coordinate_systems_apart(tmp_path):
    import zarr

    path = Ngff("0.5", scale=0.5, unit="micrometer")(tmp_path)
    group = zarr.open_group(path, mode="r+")
    said = dict(group.attrs["ome"])
    to_um = {"type": "scale", "scale": [1.0, 3.0, 3.0], "input": {"name": "cyx"}, "output": {"name": "aligned"}}
    said["multiscales"][0]["coordinateTransformations"] = [to_um]
    group.attrs["ome"] = said
    with open_slide(path) as slide:
        assert slide.metadata_mpp == 0.5


@pytest.mark.parametrize(
    ("axes", "transformations", "mpp"),
    [
        (None, [{"type": "identity"}, {"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]}], None),  # 0.1: no unit anywhere
        (["t", "c", "z", "y", "x"], [], None),
        ("said", [{"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]}, {"type": "scale", "scale": [1, 1, 1, 2, 2]}], 0.5),
        (
            "said",
            [{"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]}, {"type": "translation", "translation": [0] * 5}],
            0.25,
        ),
    ],
)
def test_axes_and_transformations_of_every_version(tmp_path, axes, transformations, mpp):
    path = Ngff("0.4", scale=0.5, unit="micrometer", axes="tczyx")(tmp_path)
    said = json.loads((path / ".zattrs").read_text())
    image = said["multiscales"][0]
    image["coordinateTransformations"] = transformations
    if axes is None:
        del image["axes"]
    elif axes != "said":
        image["axes"] = axes
    (path / ".zattrs").write_text(json.dumps(said))
    with open_slide(path) as slide:
        assert slide.metadata_mpp == mpp
        np.testing.assert_array_equal(slide.read(1, 0, 0, 56, 40), picture()[::2, ::2])


def test_four_channels_that_are_not_said_to_be_opacity(tmp_path):
    path = Ngff("0.5", scale=0.5, unit="micrometer", opaque=True, colours=("FFFFFF", "00FF00", "0000FF", "FF0000"))
    with pytest.raises(SlideError, match="shows its channels as stain FFFFFF FFFFFF"):
        open_slide(path(tmp_path))


def test_pixels_in_another_file_are_named(tmp_path):
    first = ome((picture(), 0.5, "µm", "main"))(tmp_path)
    text = tifffile.tiffcomment(first)
    tiff(picture())(tmp_path).rename(tmp_path / "other.tif")
    uuid = '><UUID FileName="other.tif">urn:uuid:11111111-1111-1111-1111-111111111111</UUID></TiffData>'
    at = text.index("<TiffData")
    end = text.index("/>", at)
    tifffile.tiffcomment(first, (text[:end] + uuid + text[end + 2 :]).encode())
    with pytest.raises(SlideError, match=r"a part of it lies in .*other\.tif; wanted one file with all of its pixels"):
        open_slide(first)


@pytest.mark.parametrize(
    ("unit", "um"),
    [("nm", 1e-3), ("Mm", 1e12), ("mm", 1e3), ("\u03bcm", 1.0), ("\u212b", 1e-4), ("Micrometers", 1.0),
     ("feet", 304800.0), ("decametre", 1e7), ("inches", 25400.0), ("pixel", None), ("", None),
     ("reference frame", None)],
)  # fmt: skip
def test_units_of_length(unit, um):
    assert um_per_unit(unit) == (None if um is None else pytest.approx(um))
