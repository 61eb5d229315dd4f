"""SpatialData in: centres through its transformations, counts, scale; and slides kept as OME-Zarr."""

import sys

import numpy as np
import pytest
import zarr

from tissuary.featurize.ingest import source_digest
from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.pipeline import featurize
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.load import load_cohort
from tissuary.store import Store
from tissuary.store.errors import CohortError, MissingDependencyError, ScaleError, SlideError
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.tests.source_files import ARRAY, BARCODES, CENTERS, COUNTS, GENES, picture

WITHOUT = 'spatialdata is not installed (an optional library: pip install "spatialdata>=0.7")'
OPTIONS = FeaturizeOptions(views=("20x",), batch=4, readers=2)


def ome_zarr(path, pixels, *, version=3, scale=(1.0, 1.0, 1.0), unit=None, levels=2):
    """One image: channels first, a level of half the size below it."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": n, "type": "space"} | ({"unit": unit} if unit else {}) for n in "yx"),
    ]
    datasets = []
    for level in range(levels):
        data = np.ascontiguousarray(np.moveaxis(pixels[:: 2**level, :: 2**level], -1, 0))
        array = group.create_array(str(level), shape=data.shape, chunks=(data.shape[0], 64, 96), dtype=data.dtype)
        array[:] = data
        size = [scale[0], scale[1] * 2**level, scale[2] * 2**level]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": size}]})
    said = [{"axes": axes, "datasets": datasets, "version": "0.5" if version == 3 else "0.4"}]
    group.attrs.update({"ome": {"multiscales": said}} if version == 3 else {"multiscales": said})
    return path


class TestOmeZarr:
    @pytest.mark.parametrize("version", [2, 3])
    def test_pixels_levels_and_scale(self, tmp_path, version):
        pixels = picture(200, 150)
        ome_zarr(tmp_path / "a.zarr", pixels, version=version, scale=(1, 0.5, 0.5), unit="micrometer")
        with open_slide(tmp_path / "a.zarr") as slide:
            assert (slide.width, slide.height, slide.metadata_mpp) == (200, 150, 0.5)
            assert (slide.level_downsamples, slide.level_dimensions) == ((1.0, 2.0), ((200, 150), (100, 75)))
            assert slide.tile_px == ((96, 64), (96, 64))
            np.testing.assert_array_equal(slide.read(0, 10, 20, 30, 40), pixels[20:60, 10:40])
            np.testing.assert_array_equal(slide.read(1, 5, 6, 7, 8), pixels[::2, ::2][6:14, 5:12])
            tile = slide.decode_tile(0, 2, 2, slide.fetch_tile(0, 2, 2))
            np.testing.assert_array_equal(tile, pixels[128:150, 192:200])
            with pytest.raises(SlideError, match="leaves level 0"):
                slide.read(0, 190, 0, 20, 10)

    def test_grey_alpha_and_no_unit(self, tmp_path):
        grey = picture(100, 80)[..., :1]
        with open_slide(ome_zarr(tmp_path / "a.zarr", grey)) as slide:
            assert slide.metadata_mpp is None
            np.testing.assert_array_equal(slide.read(0, 0, 0, 100, 80), grey.repeat(3, axis=2))
        clear = np.concatenate([picture(100, 80), np.zeros((80, 100, 1), np.uint8)], axis=2)
        with open_slide(ome_zarr(tmp_path / "b.zarr", clear)) as slide:
            assert (slide.read(0, 0, 0, 100, 80) == 255).all()

    def test_what_is_no_picture(self, tmp_path):
        with pytest.raises(SlideError, match="wanted 8-bit grey or RGB"):
            open_slide(ome_zarr(tmp_path / "a.zarr", picture(100, 80).astype(np.uint16)))
        with pytest.raises(ScaleError, match=r"0\.5 um/px across and 0\.25 um/px down; pixels must be square"):
            open_slide(ome_zarr(tmp_path / "b.zarr", picture(100, 80), scale=(1, 0.25, 0.5), unit="micrometer"))
        zarr.open_group(tmp_path / "c.zarr", mode="w")
        with pytest.raises(SlideError, match="is a zarr group and no image"):
            open_slide(tmp_path / "c.zarr")
        (ome_zarr(tmp_path / "d.zarr", picture(100, 80)) / "zarr.json").write_text("{")
        with pytest.raises(SlideError, match="cannot be read as OME-Zarr"):
            open_slide(tmp_path / "d.zarr")

    def test_the_digest_of_a_folder_names_its_contents(self, tmp_path):
        first = source_digest(ome_zarr(tmp_path / "a.zarr", picture(200, 150)))
        assert source_digest(ome_zarr(tmp_path / "b.zarr", picture(200, 150))) == first
        assert source_digest(ome_zarr(tmp_path / "c.zarr", picture(200, 150), scale=(1, 2.0, 2.0))) != first
        assert source_digest(ome_zarr(tmp_path / "d.zarr", picture(200, 150, seed=1))) != first


def test_without_the_library_the_source_says_what_to_install(tmp_path, monkeypatch):
    zarr.open_group(tmp_path / "A.zarr", mode="w").create_group("images")
    monkeypatch.setitem(sys.modules, "spatialdata", None)  # as where it is not installed
    with pytest.raises(MissingDependencyError, match=r'pip install "tissuary\[spatialdata\]"'):
        load_cohort(tmp_path)


@pytest.fixture
def spatialdata():
    return pytest.importorskip("spatialdata", reason=WITHOUT)


def visium_like(path, *, regions=("spots",), um=True, tables=("table",), image=True):
    """As spatialdata-io writes Visium: circles and an image in one coordinate system, here with the image moved.

    Circles are in a frame of half the image's pixels whose origin lies 20 x 10 of these px left and above of it.
    """
    import anndata
    import geopandas
    import pandas
    from shapely import Point
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity, Scale

    systems = {"global": Identity()} | ({"um": Scale([0.5, 0.5], axes=("x", "y"))} if um else {})
    move = Affine([[2, 0, -20], [0, 2, -10], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    shapes = {}
    for region in regions:
        own = (CENTERS + np.array([20, 10])) / 2
        frame = {"geometry": [Point(*xy) for xy in own[::-1]], "radius": 1.0}
        index = [f"{region}-{i}" for i in range(4)][::-1]  # in another order than the table's rows
        shapes[region] = ShapesModel.parse(geopandas.GeoDataFrame(frame, index=index), transformations={"global": move})
    n = len(regions)
    obs = pandas.DataFrame(
        {
            "region": pandas.Categorical(np.repeat(regions, 4)),
            "instance": [f"{region}-{i}" for region in regions for i in range(4)],
            "array_row": np.tile(ARRAY[:, 0], n),
            "array_col": np.tile(ARRAY[:, 1], n),
            "patient_id": "P9",
        },
        index=[f"{b}{r}" for r in ("", "x")[:n] for b in BARCODES],
    )
    adata = anndata.AnnData(np.tile(COUNTS, (n, 1)), obs, pandas.DataFrame(index=GENES))
    table = TableModel.parse(adata, region=list(regions), region_key="region", instance_key="instance")
    images = {}
    if image:
        pixels = np.moveaxis(picture(), -1, 0)
        for name, data, factor in (("full", pixels, 1), ("hires", pixels[:, ::4, ::4], 4)):
            told = {key: Scale([factor * (0.5 if key == "um" else 1)] * 2, axes=("x", "y")) for key in systems}
            more = {"scale_factors": [2]} if name == "full" else {}
            images[name] = Image2DModel.parse(data, dims=("c", "y", "x"), transformations=told, **more)
    SpatialData(images=images, shapes=shapes, tables=dict.fromkeys(tables, table)).write(path)
    return path


def test_spatialdata_into_a_store(spatialdata, tmp_path):
    visium_like(tmp_path / "in/A.zarr")
    report = featurize(tmp_path / "in", tmp_path / "store", options=OPTIONS)
    assert (report.source, report.failed) == ("spatialdata: the folder holds 1 SpatialData (A.zarr, ...)", ())
    store = Store(tmp_path / "store")
    place, counts, slide = store.patches("A"), read_expression(expression_path(store.path, "A")), store.slide("A")
    assert place.barcode.tolist() == BARCODES
    np.testing.assert_allclose(place.center_px, CENTERS, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(place.array, ARRAY)
    assert counts.genes.tolist() == GENES
    np.testing.assert_array_equal(counts.counts.toarray(), COUNTS)
    assert (slide.mpp, slide.mpp_source, slide.patient_id) == (0.5, "SpatialData", "P9")
    assert (slide.width_px, slide.height_px) == picture().shape[1::-1]
    assert slide.source.endswith("A.zarr/images/full")


def test_scale_that_is_not_said_comes_from_the_pitch(spatialdata, tmp_path):
    (sample,) = load_cohort(visium_like(tmp_path / "A.zarr", um=False), pitch_um=100).samples
    assert (sample.mpp, sample.pitch_um) == (None, 100)


def test_every_region_is_a_slide(spatialdata, tmp_path):
    cohort = load_cohort(visium_like(tmp_path / "A.zarr", regions=("left", "right")))
    assert [one.slide_id for one in cohort.samples] == ["A.left", "A.right"]
    assert cohort.samples[1].read_measured().spots.barcode.tolist() == [f"{name}x" for name in BARCODES]


def test_of_hd_the_coarsest_bins(spatialdata, tmp_path):
    path = visium_like(tmp_path / "A.zarr", tables=("square_008um", "square_016um"))
    (sample,) = load_cohort(path).samples
    assert "square_016um" in repr(sample.read_measured)


def test_what_cannot_be_used(spatialdata, tmp_path):
    visium_like(tmp_path / "A.zarr", tables=("one", "two"))
    visium_like(tmp_path / "B.zarr", image=False)
    visium_like(tmp_path / "C.zarr")
    visium_like(tmp_path / "D.zarr")
    (tmp_path / "D.zarr/zarr.json").write_text("{")
    cohort = load_cohort(tmp_path)
    assert [one.slide_id for one in cohort.samples] == ["C"]
    causes = dict(cohort.refused)
    assert "holds the tables one, two: keep the one with raw counts" in causes["A"]
    assert "holds no image in a coordinate system of its shapes" in causes["B"]
    assert "D.zarr cannot be read as SpatialData" in causes["D"]
    with pytest.raises(CohortError, match="is no SpatialData and holds none directly in it"):
        load_cohort(tmp_path.parent / tmp_path.name / "C.zarr/images", format="spatialdata")


def test_an_export_of_a_store_comes_back(spatialdata, tmp_path):
    from tissuary.tests.foreign_files import run_command

    visium_like(tmp_path / "in/A.zarr")
    featurize(tmp_path / "in", tmp_path / "store", options=OPTIONS)
    code, _, err = run_command("export", tmp_path / "store", "--format", "spatialdata", "--out", tmp_path / "out")
    assert code == 0, err
    (sample,) = load_cohort(tmp_path / "out").samples
    # Its only image is the thumbnail, so that um/px and centres are in pixels of that: 1300 px came to 1024.
    assert sample.mpp == pytest.approx(0.5 * 1300 / 1024, rel=1e-3)  # 1100 px came to a whole 866
    np.testing.assert_allclose(sample.read_measured().spots.center_px, CENTERS * 1024 / 1300, rtol=2e-3)
    assert Store(tmp_path / "store").slide("A").mpp == 0.5
