"""The store through its door: catalogue, tables, and rows that must belong together."""

import anndata
import numpy as np
import polars
import pytest

from tissuary.store import Store
from tissuary.store.catalog import load_catalog
from tissuary.store.errors import FingerprintError, StoreError
from tissuary.store.files.column import standardise
from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.features import read_features
from tissuary.store.files.patches import Patches, read_patches, write_patches
from tissuary.store.files.schema import expression_path, features_path, patches_path

KEY = "toy@20x"


@pytest.fixture
def store(make_store):
    return make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28)})


def test_catalogue_has_one_row_a_file_and_is_written_beside_them(store):
    catalog = store.catalog
    assert catalog.height == 3 * 5  # slide, patches, two feature keys, counts
    assert polars.read_parquet(store.path / "catalog.parquet").equals(catalog)
    features = catalog.filter((polars.col("key") == KEY) & (polars.col("slide_id") == "a2")).row(0, named=True)
    assert (features["rows"], features["dim"], features["dtype"]) == (30, 8, "float16")
    assert features["fingerprint"] == f"print of {KEY}"


def test_catalogue_follows_the_files(store):
    before = store.entries
    (store.path / "catalog.parquet").unlink()
    assert load_catalog(store.path) == before
    features_path(store.path, "a2", key=KEY).unlink()
    assert Store(store.path).slides_with([KEY]) == ("a1", "b1")
    (store.path / "catalog.parquet").write_bytes(b"no parquet at all")
    assert Store(store.path).slides_with([KEY]) == ("a1", "b1")


def test_unchanged_files_are_not_opened_again(store, monkeypatch):
    assert store.entries
    monkeypatch.setattr("tissuary.store.catalog.read_features", lambda path: pytest.fail(f"opened {path}"))
    assert len(Store(store.path).entries) == 15


def test_a_damaged_file_is_a_row_with_its_problem(store):
    path = features_path(store.path, "a2", key=KEY)
    path.write_bytes(path.read_bytes()[:100])
    entry = next(e for e in Store(store.path).entries if e.path.endswith(f"{KEY}/a2.h5"))
    assert "not a whole HDF5 file" in entry.problem
    assert Store(store.path).slides_with(["haematoxylin@20x"]) == ("a1", "a2", "b1")


def test_partial_files_of_a_killed_job_are_not_seen(store):
    (features_path(store.path, "a2", key=KEY).parent / ".a9.h5.partial-1-x").write_bytes(b"half")
    assert len(Store(store.path).entries) == 15


def test_missing_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="is no store: there is no such folder"):
        _ = Store(tmp_path / "nowhere").entries


def test_table_joins_slides_in_the_order_asked_for(store):
    table = store.table(KEY, slides=["b1", "a1"])
    assert table.slide_ids == ("b1", "a1")
    assert table.patient_ids == ("B", "A")
    expected = np.concatenate([store.features(KEY, "b1"), store.features(KEY, "a1")]).astype(np.float32)
    np.testing.assert_array_equal(table.features(), expected)
    np.testing.assert_array_equal(table.features(KEY, rows=np.array([40, 2, 2])), expected[[40, 2, 2]])
    np.testing.assert_array_equal(table.center_um[:28], store.patches("b1").center_px * 0.5)
    counts = [read_expression(expression_path(store.path, s)).counts.toarray() for s in ("b1", "a1")]
    np.testing.assert_array_equal(table.counts.toarray(), np.concatenate(counts))
    np.testing.assert_array_equal(table.depth, np.concatenate(counts).sum(1))


def test_rows_come_back_in_any_order_and_rows_that_are_not_there_raise(store):
    table = store.table(KEY)
    column = table.columns[KEY]
    rng = np.random.default_rng(0)
    for rows in (np.arange(83), rng.permutation(83), rng.integers(0, 83, 300), np.sort(rng.integers(0, 83, 300))):
        expected = np.concatenate(column.parts)[rows]
        np.testing.assert_array_equal(column.raw(table.slide[rows], table.row[rows]), expected)
    for slide in ([0, 1], [1, 0]):
        with pytest.raises(IndexError):
            column.raw(np.array(slide), np.array([3, 99]))


def test_selecting_slides_keeps_rows_together(store):
    table = store.table([KEY, "haematoxylin@20x"])
    part = table.select_slides([2, 0])
    again = store.table([KEY, "haematoxylin@20x"], slides=["b1", "a1"])
    np.testing.assert_array_equal(part.features(), again.features())
    np.testing.assert_array_equal(part.counts.toarray(), again.counts.toarray())
    assert (part.slide_ids, part.slide.tolist()) == (again.slide_ids, again.slide.tolist())


def test_standardised_rows_have_no_mean_and_unit_spread(store):
    table = store.table(KEY)
    for within, groups in (("slide", [0, 1, 2]), ("cohort", [slice(None)])):
        column = standardise(table.columns[KEY], within=within)
        rows = column.gather(table.slide, table.row)
        for group in groups:
            here = rows[table.slide == group] if isinstance(group, int) else rows
            np.testing.assert_allclose(here.mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(here.std(0), 1, atol=1e-4)


def test_a_dimension_that_does_not_vary_becomes_zero(store):
    from dataclasses import replace

    column = store.table(KEY).columns[KEY]
    flat = tuple(np.where(np.arange(8) == 3, np.float16(0.7), part) for part in column.parts)
    rows = standardise(replace(column, parts=flat), within="slide").gather(np.zeros(5, int), np.arange(5))
    assert (rows[:, 3] == 0).all()


def test_genes_that_differ_are_intersected_and_depth_counts_all(store):
    path = expression_path(store.path, "b1")
    old = read_expression(path)
    path.unlink()
    kept = Expression(old.counts[:, [5, 1, 0]], np.array(["gene5", "other", "gene0"]), old.barcode)
    write_expression(path, kept, store.patches("b1"), slide_id="b1")
    table = Store(store.path).table(KEY)
    assert table.genes.tolist() == ["gene0", "gene5"]  # order of the first slide
    here = table.slide == 2
    np.testing.assert_array_equal(table.counts[here].toarray(), old.counts[:, [0, 5]].toarray())
    np.testing.assert_array_equal(table.depth[here], old.counts[:, [5, 1, 0]].toarray().sum(1))


def test_counts_are_anndata_in_the_order_of_the_spots(store):
    adata = anndata.read_h5ad(expression_path(store.path, "a1"))
    patches = store.patches("a1")
    assert adata.obs_names.tolist() == patches.barcode.tolist()
    np.testing.assert_array_equal(adata.obsm["spatial"], patches.center_px)
    np.testing.assert_array_equal(
        adata.X.toarray(), read_expression(expression_path(store.path, "a1")).counts.toarray()
    )


def test_features_of_two_encoders_are_never_joined(store):
    import h5py

    with h5py.File(features_path(store.path, "a2", key=KEY), "a") as file:
        file.attrs["fingerprint"] = "another"
    with pytest.raises(FingerprintError, match=r"made by different encoders: .*--as NAME"):
        Store(store.path).table(KEY)


def test_features_of_other_patches_are_never_joined(store):
    path = patches_path(store.path, "a2")
    old = read_patches(path)
    path.unlink()
    write_patches(path, Patches(old.center_px + 1, old.barcode, old.array), slide_id="a2")
    with pytest.raises(StoreError, match="belong to other patches"):
        Store(store.path).table(KEY)


def test_shuffled_counts_are_never_joined(store):
    path = expression_path(store.path, "a2")
    old, patches = read_expression(path), store.patches("a2")
    turned = Patches(patches.center_px[::-1], patches.barcode[::-1], patches.array[::-1])
    path.unlink()
    write_expression(path, Expression(old.counts, old.genes, old.barcode[::-1]), turned, slide_id="a2")
    with pytest.raises(StoreError, match="not the spots of the patch file"):
        Store(store.path).table(KEY)
    with pytest.raises(StoreError, match="not the spots of the slide"):
        write_expression(path, old, turned, slide_id="a2")


def test_duplicate_barcodes_are_refused(tmp_path):
    patches = Patches(np.zeros((3, 2)), np.array(["1x1", "1x2", "1x1"]))
    with pytest.raises(StoreError, match="barcode 1x1 occurs more than once"):
        write_patches(tmp_path / "p.h5", patches, slide_id="s")


def test_absent_features_and_keys_are_named(store):
    with pytest.raises(StoreError, match="no features 'toy@10x' on 'spots': did you mean toy@20x"):
        store.table("toy@10x")
    with pytest.raises(StoreError, match="the table has no features 'toy@10x'; it has toy@20x"):
        store.table(KEY).features("toy@10x")


def test_tissue_neighbours_come_from_the_door(store):
    found = store.neighbours("a1", 4)
    assert found.index.shape == (25, 4)
    assert found.distance[12].tolist() == [200.0] * 4  # 400 px at 0.5 um/px
    table = store.table(KEY, slides=["a2", "a1"])
    assert table.neighbours(4).index[30 + 12].tolist() == (found.index[12] + 30).tolist()


def test_features_are_mapped_not_read(store):
    assert isinstance(read_features(features_path(store.path, "a1", key=KEY)).features, np.memmap)
    assert isinstance(store.features(KEY, "a1"), np.memmap)
