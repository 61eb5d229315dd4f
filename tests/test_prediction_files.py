"""What prediction writes: blocks and rims, the distance to training data, AnnData, pictures, GeoJSON for QuPath."""

import json
import shutil
import uuid
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image

from tissuary.heads import PredictOptions, TrainOptions, make_head, predict, train
from tissuary.heads.linear import slide_level
from tissuary.heads.prediction.blocks import context_of, spatial_blocks, with_rim
from tissuary.heads.prediction.familiarity import Familiarity
from tissuary.heads.prediction.file import SpotShape, shape_of
from tissuary.heads.prediction.run import load_run
from tissuary.heads.prediction.slide import plan_slide
from tissuary.heads.prediction.slide_map import read_slide_map
from tissuary.store import Store
from tissuary.store.errors import DamagedFileError, FingerprintError, HeadError, StoreError
from tissuary.store.exchange.exporting import export_store
from tissuary.store.exchange.registry import EXPORTERS
from tissuary.store.files import column as feature_column
from tissuary.store.files.checksums import seal_datasets
from tissuary.store.files.expression import read_expression
from tissuary.store.verify.verify import verify_store
from tissuary.tests.head_tables import made_up
from tissuary.tests.prediction_stores import GRID, KEY, MPP, add_slide, measured


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, a measured slide, a foreign one on a grid, and what was predicted of both."""
    root = tmp_path_factory.mktemp("prediction")
    store = measured(root / "store")
    train(store, root / "run", options=TrainOptions(panel_size=6))
    add_slide(root / "dense", "Z1", patient="Z", n=100, seed=7, patches=GRID)
    add_slide(root / "dense", "Far", patient="Z", n=100, seed=8, patches=GRID, shift=30.0)
    predict(root / "run", store, root / "out", options=PredictOptions(slides=("A1",), pictures=False))
    dense = root / "dense"
    predict(root / "run", dense, root / "out", options=PredictOptions(slides=("Far",), genes=("gene9",)))
    told = PredictOptions(slides=("Z1",), genes=("gene11", "gene10"), pictures=False)
    predict(root / "run", dense, root / "out", options=told)
    return root


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 300), st.integers(1, 80), st.sampled_from([0.0, 50.0, 600.0, None]), st.integers(0, 2**31))
def test_blocks_cover_every_row_once_and_rims_hold_all_that_is_near(n, block_rows, context_um, seed):
    place = np.random.default_rng(seed).integers(0, 40, size=(n, 2)) * 37.0
    blocks = spatial_blocks(place, block_rows=block_rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(n))
    assert max(map(len, blocks)) <= block_rows
    for block in blocks:
        assert (np.diff(block) > 0).all()
        rows, own = with_rim(place, block, context_um=context_um)
        np.testing.assert_array_equal(rows[own], block)
        away = np.linalg.norm(place[:, None] - place[None, block], axis=2).min(axis=1)
        near = np.ones(n, dtype=bool) if context_um is None else away <= context_um
        assert set(np.flatnonzero(near)) <= set(rows) or context_um == 0


def test_blocks_are_compact():
    place = np.stack(np.divmod(np.arange(64 * 64), 64), axis=1) * 100.0
    sides = [np.ptp(place[block], axis=0).max() for block in spatial_blocks(place, block_rows=256)]
    assert len(sides) == 16
    assert max(sides) == 1500.0  # 16 x 16 tiles
    with pytest.raises(HeadError, match="blocks of 0 rows"):
        spatial_blocks(place, block_rows=0)


@pytest.mark.parametrize(
    ("head", "options", "expected"),
    [
        ("ridge", {}, 0.0),
        ("mlp", {}, 0.0),
        ("mmap", {"neighbours": "space"}, 600.0),
        ("mmap", {"neighbours": "feature"}, 0.0),
        ("mmap", {"neighbours": "feature", "shuffled": True}, None),
        ("mmap", {"mode": "paper"}, None),
        ("nh2st", {}, 600.0),
        ("nh2st", {"mode": "paper"}, None),
        ("triplex", {}, None),
        ("triplex", {"slide": False}, 600.0),
        ("coordinates-smooth", {}, None),
    ],
)
def test_heads_say_how_far_they_look(head, options, expected):
    assert context_of(make_head(head, **options)) == expected


def test_distance_is_the_mean_difference_to_the_nearest_five_in_training_deviations():
    table = made_up("ABC", each=1, spots=40, dim=5)
    known = Familiarity.fit(table)
    x = table.features().astype(np.float64)
    z = (x - x.mean(0)) / x.std(0)
    query = made_up("Z", each=1, spots=20, dim=5, seed=3)
    asked = (query.features().astype(np.float64) - x.mean(0)) / x.std(0)
    away = np.sqrt(((asked[:, None] - z[None]) ** 2).mean(2))
    found = known.opened().distance_of(known.scaled(query), np.arange(len(query)))
    np.testing.assert_allclose(found, np.sort(away, axis=1)[:, :5].mean(1), atol=2e-3)  # rows are kept as float16
    own = np.sqrt(((z[:, None] - z[None]) ** 2).mean(2))
    own[table.slide[:, None] == table.slide[None]] = np.inf
    usual = np.sort(np.sort(own, axis=1)[:, :5].mean(1))
    np.testing.assert_allclose(known.usual, usual, atol=2e-3)
    assert known.apart == "patient"
    np.testing.assert_allclose(
        known.unfamiliar(np.array([0.0, (usual[9] + usual[10]) / 2, 99.0])), [0.0, 10 / len(x), 1.0], atol=2 / len(x)
    )


@pytest.mark.parametrize(("patients", "each", "apart"), [("A", 3, "slide"), ("A", 1, "quarter of the slide")])
def test_fewer_patients_are_told_apart_by_slide_or_quarter(patients, each, apart):
    table = made_up(patients, each=each, spots=40, dim=5)
    known = Familiarity.fit(table)
    assert known.apart == apart
    assert len(known.usual) == len(table)
    assert (known.usual > 0).all()


def test_training_rows_are_capped(monkeypatch):
    from tissuary.heads.prediction import familiarity

    monkeypatch.setattr(familiarity, "MOST_ROWS", 50)
    monkeypatch.setattr(familiarity, "MOST_ASKED", 20)
    known = Familiarity.fit(made_up("ABC", each=1, spots=40, dim=5))
    assert known.rows.shape == (50, 5)
    assert known.rows.dtype == np.float16
    assert known.usual.shape == (20,)


def test_a_foreign_slide_is_flagged_and_one_of_the_cohort_is_not(folder):
    shares = {
        name: anndata.read_h5ad(folder / "out" / f"{name}.h5ad").obs.flagged.mean() for name in ("A1", "Z1", "Far")
    }
    assert shares["Far"] == 1.0
    assert shares["A1"] < 0.05
    assert shares["Z1"] < 0.15


def test_features_of_another_length_or_encoder_have_no_distance():
    table = made_up("AB", each=1, dim=5)
    known = Familiarity.fit(table)
    with pytest.raises(HeadError, match="learnt on made-up@20x, the table has none"):
        known.scaled(replace(table, columns={}))
    with pytest.raises(HeadError, match="features of 4 numbers a row, this run learnt on 5"):
        known.scaled(made_up("Z", each=1, dim=4))
    other = {key: replace(column, fingerprint="other") for key, column in table.columns.items()}
    with pytest.raises(FingerprintError, match="fingerprint other, this run learnt on none"):
        known.scaled(replace(table, columns=other))


def test_anndata_says_where_how_large_and_by_what(folder):
    found = anndata.read_h5ad(folder / "out" / "Z1.h5ad")
    run = load_run(folder / "run")
    assert found.shape == (100, 6)
    assert found.X.dtype == np.float32
    expected = (np.stack(np.divmod(np.arange(100), 10), axis=1)[:, ::-1] + 1.0) * 112 / MPP
    np.testing.assert_array_equal(found.obsm["spatial"], expected)
    about = found.uns["tissuary"]
    assert (about["mpp"], about["patches"], about["side_um"]) == (MPP, GRID, 112.0)
    assert about["run"]["id"] == run.id
    assert about["run"]["target"] == "log1p-cp10k"
    assert dict(about["fingerprints"]) == {KEY: "print"}
    assert found.uns["spatial"]["Z1"]["scalefactors"]["spot_diameter_fullres"] == 224
    assert {"distance", "unfamiliar", "flagged", "array_row", "array_col"} <= set(found.obs)
    np.testing.assert_array_equal(found.obs.unfamiliar, run.familiarity.unfamiliar(found.obs.distance.to_numpy()))
    expected = run.saved.predict(Store(folder / "dense").table(KEY, slides=["Z1"], patches=GRID, expression=False))
    np.testing.assert_allclose(found[:, "gene11"].X[:, 0], expected[:, run.saved.panel.index("gene11")], rtol=1e-5)


def test_geojson_is_what_qupath_reads(folder):
    """Fields and types of `QuPathTypeAdapters.parseObject`, QuPath 0.4 to 0.6; closed rings as RFC 7946 wants them."""
    found = anndata.read_h5ad(folder / "out" / "Z1.h5ad")
    told = json.loads((folder / "out" / "Z1.geojson").read_text())
    ours = {f"tissuary-{name}" for name in ("run", "prediction", "shown", "coordinates", "training")}
    assert set(told) == {"type", "features"} | ours
    assert told["type"] == "FeatureCollection"
    assert len(told["features"]) == len(found)
    assert len({uuid.UUID(one["id"]) for one in told["features"]}) == len(found)
    one = told["features"][12]
    assert (one["type"], one["geometry"]["type"]) == ("Feature", "Polygon")
    x, y = found.obsm["spatial"][12]
    square = [[x - 112, y - 112], [x + 112, y - 112], [x + 112, y + 112], [x - 112, y + 112], [x - 112, y - 112]]
    assert one["geometry"]["coordinates"] == [square]  # 112 um are 224 px
    said = one["properties"]
    assert (said["objectType"], said["name"], said["isLocked"]) == ("tile", found.obs_names[12], True)
    expected = {
        "gene11": found[:, "gene11"].X[12, 0],
        "gene10": found[:, "gene10"].X[12, 0],
        "distance to training data": found.obs.distance.iloc[12],
        "share of training spots nearer": found.obs.unfamiliar.iloc[12],
    }
    assert said["measurements"] == pytest.approx(expected, rel=1e-6)
    flagged = json.loads((folder / "out" / "Far.geojson").read_text())["features"][0]["properties"]
    assert flagged["classification"] == {"name": "Unlike training data", "color": [179, 71, 0]}
    spot = json.loads((folder / "out" / "A1.geojson").read_text())["features"][0]
    assert spot["properties"]["objectType"] == "detection"
    ring = np.array(spot["geometry"]["coordinates"][0])
    assert (ring[0] == ring[-1]).all()
    radius = np.linalg.norm(ring - anndata.read_h5ad(folder / "out" / "A1.h5ad").obsm["spatial"][0], axis=1)
    np.testing.assert_allclose(radius, 100.0, atol=0.01)  # spots 200 um apart are 100 um wide


def test_a_map_shows_each_value_at_its_place(folder):
    picture = np.asarray(Image.open(folder / "out" / "Far.familiarity.png").convert("RGB")).astype(int)
    values = anndata.read_h5ad(folder / "out" / "Far.h5ad").obs.unfamiliar
    assert (values == 1).all()
    # Farther than the bar reaches: every tile has the colour of its end, and nothing of the tissue shows through.
    shown = np.round(np.array(colormaps["YlOrRd"](1.0)[:3]) * 255)
    right = picture[:, picture.shape[1] // 2 :]
    middle = right[right.shape[0] // 4 : right.shape[0] // 2, right.shape[1] // 4 : right.shape[1] // 2]
    assert (middle == shown).all()
    names = {path.name for path in (folder / "out").glob("*.png")}
    assert names == {"Far.gene9.png", "Far.familiarity.png"}
    gene = np.asarray(Image.open(folder / "out" / "Far.gene9.png").convert("RGB")).astype(int)
    # Hatched: colours of the bar, the dark and the white of the lines, and no blend of any of these.
    bar = np.round(colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(int)
    allowed = {tuple(colour) for colour in [*bar.tolist(), [255, 255, 255], [0x1D, 0x25, 0x30]]}
    tiles = gene[gene.shape[0] // 3 : gene.shape[0] // 2, 2 * gene.shape[1] // 3 : 3 * gene.shape[1] // 4]
    found = {tuple(colour) for colour in np.unique(tiles.reshape(-1, 3), axis=0).tolist()}
    assert found <= allowed
    assert {(255, 255, 255), (0x1D, 0x25, 0x30)} < found


def test_shapes_follow_the_patch_set():
    square = np.stack(np.divmod(np.arange(9), 3), axis=1) * 80.0
    assert shape_of("grid-56um-tile112um-tissue0.1", square, fov_um=112.0) == SpotShape("square", 56.0)
    assert shape_of("spots", square, fov_um=112.0) == SpotShape("circle", 40.0)
    assert shape_of("spots", square[:1], fov_um=112.0) == SpotShape("circle", 56.0)
    assert shape_of("tiles of others", square, fov_um=112.0) == SpotShape("square", 80.0)


def names_as_groups(path, missing=()):
    """Rewrite names of rows and columns as anndata 0.13 with pandas 3 does, by h5py alone."""
    with h5py.File(path, "r+") as file:
        for frame in (file["obs"], file["var"]):
            name = frame.attrs["_index"]
            names, said = frame[name][()], {"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"}
            del frame[name]
            group = frame.create_group(name)
            group.attrs.update(said | {"na-value": "NaN"})
            group["values"], group["mask"] = names, np.isin(np.arange(len(names)), missing)
            group["values"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
            group["mask"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        if "tissuary" not in file["uns"]:  # counts, of which every dataset has its checksum
            seal_datasets(file)
    return path


def test_names_are_read_in_both_forms_that_anndata_writes(folder, tmp_path):
    """Counts and predictions whose names are a group serve every verb as those whose names are a dataset."""
    store = Store(shutil.copytree(folder / "store", tmp_path / "store"))
    for catalog in store.path.glob("catalog.*"):
        catalog.unlink()
    counts = sorted((store.path / "expression").iterdir())
    before = [read_expression(path) for path in counts]
    for path, old in zip(counts, before, strict=True):
        new = read_expression(names_as_groups(path))
        assert (new.genes.tolist(), new.barcode.tolist()) == (old.genes.tolist(), old.barcode.tolist())
        assert anndata.read_h5ad(path).obs_names.tolist() == old.barcode.tolist()
    assert verify_store(store.path) == ()
    export_store(store, tmp_path / "out", EXPORTERS["h5ad"])
    assert anndata.read_h5ad(tmp_path / "out" / "A1.h5ad").var_names.tolist() == before[0].genes.tolist()
    train(store, tmp_path / "run", options=TrainOptions(panel_size=6))
    predict(tmp_path / "run", store, tmp_path / "maps", options=PredictOptions(slides=("A1",), pictures=False))
    maps = tmp_path / "maps"
    first = (maps / "A1.geojson").read_bytes()
    names_as_groups(maps / "A1.h5ad")
    (maps / "A1.geojson").unlink()
    told = predict(tmp_path / "run", store, maps, options=PredictOptions(slides=("A1",), pictures=False))
    assert (told.failed, (maps / "A1.geojson").read_bytes()) == ((), first)


def test_names_are_written_as_datasets_that_every_anndata_reads(folder, tmp_path):
    export_store(Store(folder / "store"), tmp_path, EXPORTERS["h5ad"])
    for path in (folder / "store/expression/A1.h5ad", folder / "out/A1.h5ad", tmp_path / "A1.h5ad"):
        with h5py.File(path) as file:
            for frame in (file["obs"], file["var"]):
                names = frame[frame.attrs["_index"]]
                assert isinstance(names, h5py.Dataset), path
                assert (names.attrs["encoding-type"], len(names)) == ("string-array", len(names.asstr()[()]))


def test_a_name_that_is_missing_is_refused(folder, tmp_path):
    path = tmp_path / "A1.h5ad"
    shutil.copy(folder / "store/expression/A1.h5ad", path)
    names_as_groups(path, missing=[3])
    with pytest.raises(DamagedFileError, match=r"A1.h5ad: /var/gene lacks 1 of 12 names .* a name for every row"):
        read_expression(path)
    with h5py.File(path, "r+") as file:
        file["var/gene"].attrs["encoding-type"] = "categorical"
    with pytest.raises(DamagedFileError, match="/var/gene is categorical; wanted string-array or nullable-string-arr"):
        read_expression(path)
    with h5py.File(path, "r+") as file:
        del file["var"].attrs["_index"]
    with pytest.raises(DamagedFileError, match="/var has no index, so its rows have no names"):
        read_expression(path)


def test_a_damaged_or_foreign_prediction_is_named(folder, tmp_path):
    run, store = load_run(folder / "run"), Store(folder / "dense")
    plan = plan_slide(run, store, "Z1", patches=GRID)
    whole = (folder / "out" / "Z1.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="cannot be read"):
        read_slide_map(tmp_path / "cut.h5ad", ["gene11"], facts=plan.facts, identity=plan.identity)
    with pytest.raises(HeadError, match="has no genes actin; it has 6, such as gene11"):
        read_slide_map(folder / "out" / "Z1.h5ad", ["actin"], facts=plan.facts, identity=plan.identity)
    (tmp_path / "Z1.h5ad").write_bytes((folder / "store" / "expression" / "A1.h5ad").read_bytes())
    told = predict(run, store, tmp_path, options=PredictOptions(slides=("Z1",)))
    assert "made with another run" in dict(told.failed)["Z1"]


def test_large_slides_are_averaged_in_steps_to_the_same_end(monkeypatch):
    table = made_up("AB", each=1, spots=50, dim=4)
    parts = [table.features()[table.slide == one].astype(np.float64) for one in range(2)]
    monkeypatch.setattr(slide_level, "STEP", 7)
    monkeypatch.setattr(feature_column, "MOMENT_BYTES", 8 * 4 * 9)
    means, spread = slide_level.slide_features(table)
    np.testing.assert_allclose(means, [part.mean(0) for part in parts], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(spread, np.sqrt(np.mean([part.var(0) for part in parts], axis=0)), rtol=1e-12)
    column = feature_column.standardise(table.columns["made-up@20x"], within="slide")
    expected = np.concatenate([(part - part.mean(0)) / part.std(0) for part in parts])
    np.testing.assert_allclose(column.gather(table.slide, table.row), expected, atol=1e-5)
