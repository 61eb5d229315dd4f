"""SpatialData out of a store: squares of patches, one table of features and counts, in pixels and in um."""

import sys

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.tests.foreign_files import bring, corners, run_command, trident, vectors

WITHOUT = 'spatialdata is not installed (an optional library: pip install "spatialdata>=0.7")'


@pytest.fixture
def spatialdata():
    return pytest.importorskip("spatialdata", reason=WITHOUT)


def test_without_the_library_the_export_says_what_to_install(make_store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)  # as where it is not installed
    store = make_store({"a1": ("A", 9)})
    code, _, err = run_command("export", store.path, "--format", "spatialdata", "--out", tmp_path / "out")
    assert (code, 'SpatialData is written with spatialdata: pip install "tissuary[spatialdata]"' in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_slide_is_squares_a_table_and_a_picture(spatialdata, make_store, tmp_path):
    store = make_store({"a1": ("A", 9), "b1": ("B", 4)})
    code, _, err = run_command("export", store.path, "--format", "spatialdata", "--out", tmp_path / "out")
    assert code == 0, err
    for slide_id in ("a1", "b1"):
        data = spatialdata.read_zarr(tmp_path / "out" / f"{slide_id}.zarr")
        place, table = store.patches(slide_id), data.tables["table"]
        assert table.obs_names.tolist() == place.barcode.tolist()
        np.testing.assert_array_equal(table.obsm["spatial"], place.center_px)
        assert table.obsm["X_toy"].tobytes() == store.features("toy@20x", slide_id).tobytes()
        counts = read_expression(expression_path(store.path, slide_id))
        assert (counts.counts != table.X).nnz == 0
        assert table.uns["tissuary"]["features"]["X_toy"]["fingerprint"] == "print of toy@20x"
        assert (table.obs["region"] == "patches").all()
        squares = data.shapes["patches"].loc[table.obs["instance_id"].to_numpy()].geometry
        np.testing.assert_allclose(np.stack([squares.centroid.x, squares.centroid.y], axis=1), place.center_px)
        np.testing.assert_allclose(squares.area, (112 / 0.5) ** 2)
        assert set(data.coordinate_systems) == {"global", "um"}
        in_um = spatialdata.transform(data.shapes["patches"], to_coordinate_system="um")
        np.testing.assert_allclose(in_um.geometry.centroid.x, place.center_px[:, 0] * 0.5)
        picture = data.images["thumbnail"]
        assert picture.shape == (3, 20, 20)
        assert (picture.to_numpy() == 200).all()
        extent = spatialdata.get_extent(picture, coordinate_system="global")
        assert extent["x"] == pytest.approx((0, 20_000))
    code, _, err = run_command("export", store.path, "--format", "spatialdata", "--out", tmp_path / "out")
    assert (code, "is there already and was kept" in err) == (0, True)


def test_names_are_cut_to_what_spatialdata_allows(spatialdata, make_store, tmp_path):
    store = make_store({"a1": ("A", 9)}, views=("20x", "10x"))
    code, _, err = run_command("export", store.path, "--format", "spatialdata", "--out", tmp_path / "out")
    assert code == 0, err
    table = spatialdata.read_zarr(tmp_path / "out" / "a1.zarr").tables["table"]
    assert set(table.obsm) == {"spatial", "X_toy_20x", "X_toy_10x"}
    assert table.uns["tissuary"]["features"]["X_toy_10x"]["key"] == "toy@10x"
    assert not [path for path in (tmp_path / "out").iterdir() if "partial" in path.name]


def test_slides_without_counts_pictures_or_features_are_written_too(spatialdata, tmp_path):
    trident(tmp_path / "in", "s1", corners(), vectors(12))
    trident(tmp_path / "in", "bare", corners())
    bring(tmp_path / "in", tmp_path / "store", "trident", mpp=0.499)
    code, _, err = run_command("export", tmp_path / "store", "--format", "spatialdata", "--out", tmp_path / "out")
    assert code == 0, err
    full = spatialdata.read_zarr(tmp_path / "out" / "s1.zarr")
    assert full.tables["table"].shape == (12, 0)
    assert full.tables["table"].obsm["X_toynet"].dtype == np.float32
    assert not full.images
    bare = spatialdata.read_zarr(tmp_path / "out" / "bare.zarr")
    points = bare.shapes["patches"].geometry
    np.testing.assert_array_equal(np.stack([points.x, points.y], axis=1), corners() + 128.0)
    assert Store(tmp_path / "store").slide_ids == ("bare", "s1")
