"""What a table gives by row: views, tokens, neighbours; slides and rows chosen by expressions; differing genes."""

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from tissuary.store import Store
from tissuary.store.errors import StoreError
from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.features import FeatureHeader, write_features
from tissuary.store.files.schema import expression_path, features_path

KEY = "toy@20x"
KEYS = (KEY, "toy@10x")


@pytest.fixture
def store(make_store):
    return make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28)}, views=("20x", "10x"))


def add_tokens(store, slide_id, *, shape, key="toy@20x.grid2x2"):
    """Store random tokens of a slide's spots, and give them back."""
    header = store.header(KEY, slide_id)
    tokens = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    made = FeatureHeader(
        slide_id, "tokens", {}, 0.5, 112.0, 1.0, "fp32", header.patches_digest, header.slide_mpp, header.source_digest
    )
    with write_features(features_path(store.path, slide_id, key=key), made, shape=shape) as writer:
        writer.append(tokens)
    return tokens.astype(np.float16)


def test_views_lie_side_by_side_for_rows_of_any_shape(store):
    table = store.table(KEYS)
    whole = np.concatenate([np.concatenate([store.features(key, s) for s in table.slide_ids]) for key in KEYS], axis=1)
    np.testing.assert_array_equal(table.features(), whole.astype(np.float32))
    near = table.neighbours(4)
    found = table.features(rows=near.index, mask=near.mask)
    assert found.shape == (83, 4, 16)
    np.testing.assert_array_equal(found[near.mask], whole[near.index[near.mask]].astype(np.float32))
    lonely = near.mask.copy()
    lonely[7] = False
    assert not table.features(KEY, rows=near.index, mask=lonely)[7].any()


def test_tokens_of_neighbours_come_with_their_axes(store):
    tokens = add_tokens(store, "a1", shape=(25, 4, 6))
    table = store.table([KEY, "toy@20x.grid2x2"], slides=["a1"])
    near = table.neighbours(3)
    found = table.features("toy@20x.grid2x2", rows=near.index)
    np.testing.assert_array_equal(found, tokens[near.index].astype(np.float32))
    with pytest.raises(StoreError, match=r"do not lie side by side: toy@20x \(8,\), toy@20x.grid2x2 \(4, 6\)"):
        table.features()


def test_expressions_on_slides_open_no_other_slide(store):
    features_path(store.path, "b1", key=KEY).write_bytes(b"damaged after the catalogue was read")
    table = store.table(KEY, where=pl.col("patient_id") == "A")
    assert table.slide_ids == ("a1", "a2")
    assert len(store.table(KEY, slides=["a2", "a1"], where=pl.col("slide_id").is_in(["a2"]))) == 30
    with pytest.raises(StoreError, match="`where` keeps none of the slides that have toy@20x"):
        store.table(KEY, where=pl.col("mpp") > 1)


def test_expressions_on_spots_choose_rows(store):
    whole = store.table(KEY)
    limit = float(np.median(whole.depth))
    deep = store.table(KEY, where=(pl.col("depth") > limit) & (pl.col("array_row") < 3))
    rows = np.flatnonzero((whole.depth > limit) & (whole.array[:, 0] < 3))
    assert 0 < len(rows) < len(whole)
    np.testing.assert_array_equal(deep.features(), whole.features(rows=rows))
    np.testing.assert_array_equal(deep.spots["x_um"].to_numpy(), whole.center_um[rows, 0])
    assert whole.where(pl.col("patch") == 3).barcode.tolist() == [store.patches(s).barcode[3] for s in whole.slide_ids]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (pl.col("moon") > 1, "cannot be asked of the columns slide_id, patient_id, patch"),
        (pl.col("x_um") + 1, "values of Float64; wanted one truth value for each of 83"),
    ],
)
def test_expressions_that_choose_nothing_are_refused(store, condition, message):
    with pytest.raises(StoreError, match=message):
        store.table(KEY).where(condition)


def test_slides_are_described_one_a_line(store):
    frame = store.slide_frame
    assert frame["slide_id"].to_list() == ["a1", "a2", "b1"]
    assert frame["counts"].all()
    assert frame.row(2, named=True)["features"] == ["spots/haematoxylin@20x", "spots/toy@10x", "spots/toy@20x"]


@pytest.fixture
def differing(store):
    """`b1` measured other genes: two of the first slide's in another order, and one of its own."""
    own = read_expression(expression_path(store.path, "b1"))
    shared = own.genes[[5, 2]]
    counts = csr_matrix(np.arange(28 * 3, dtype=np.float32).reshape(28, 3))
    path = expression_path(store.path, "b1")
    path.unlink()
    genes = np.array([shared[0], "ONLY-B", shared[1]])
    write_expression(path, Expression(counts, genes, own.barcode), store.patches("b1"), slide_id="b1")
    return Store(store.path), genes, counts.toarray()


def test_shared_genes_are_those_of_every_slide_in_the_order_of_the_first(differing):
    store, genes, counts = differing
    table = store.table(KEY, slides=["a1", "b1"])
    assert table.genes.tolist() == [genes[2], genes[0]]  # positions 2 and 5 of the first slide
    np.testing.assert_array_equal(table.counts[table.slide == 1].toarray(), counts[:, [2, 0]])
    assert table.measured is None
    np.testing.assert_array_equal(table.depth[table.slide == 1], counts.sum(1))  # over all its genes


def test_all_genes_come_with_who_measured_them(differing):
    store, genes, counts = differing
    table = store.table(KEY, slides=["a1", "b1"], genes="all")
    first = read_expression(expression_path(store.path, "a1"))
    assert table.genes.tolist() == [*first.genes, "ONLY-B"]
    assert table.measured[0].sum() == 60
    assert table.genes[table.measured[1]].tolist() == [genes[2], genes[0], "ONLY-B"]
    here = table.counts[table.slide == 1].toarray()
    np.testing.assert_array_equal(here[:, table.measured[1]], counts[:, [2, 0, 1]])
    assert not here[:, ~table.measured[1]].any()
    np.testing.assert_array_equal(table.counts[table.slide == 0].toarray()[:, :60], first.counts.toarray())
    np.testing.assert_array_equal(table.select_slides([1]).measured, table.measured[[1]])
    with pytest.raises(StoreError, match="genes 'some': choose shared"):
        store.table(KEY, genes="some")


def test_rows_are_whole_numbers_inside_the_table(store):
    table = store.table(KEY)
    with pytest.raises(StoreError, match=r"rows of type bool: give numbers"):
        table.features(rows=np.ones(len(table), bool))
    with pytest.raises(StoreError, match=r"rows from -1 to -1 of a table that has"):
        table.features(rows=np.array([-1]))
    masked = table.features(rows=np.arange(3), mask=np.array([1, 1, 0]))
    np.testing.assert_array_equal(masked[:2], table.features(rows=np.arange(2)))
    assert not masked[2].any()


def test_a_slide_is_asked_for_once(store):
    with pytest.raises(StoreError, match="slides a1 are asked for more than once"):
        store.table(KEY, slides=["a1", "a2", "a1"])


def test_files_of_another_slide_are_refused(store):
    one, other = (expression_path(store.path, slide) for slide in ("a1", "a2"))
    content = one.read_bytes(), other.read_bytes()
    one.write_bytes(content[1]), other.write_bytes(content[0])
    with pytest.raises(StoreError, match=r"expression/a1.h5ad says that it is of slide a2"):
        Store(store.path).table(KEY)
    path = features_path(store.path, "a1", key=KEY)
    path.write_bytes(features_path(store.path, "a2", key=KEY).read_bytes())
    with pytest.raises(StoreError, match="says that it is of slide a2"):
        Store(store.path).features(KEY, "a1")
