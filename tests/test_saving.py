"""Saved heads: what comes back predicts the same bits, knows what it was made with, and refuses other features."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from torch import nn

from tissuary.heads import make_head
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.engine.head import NeuralHead
from tissuary.heads.engine.network import HeadModule
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import Fold
from tissuary.heads.saving.features import FeatureNeed, check_headers
from tissuary.heads.saving.save import headers_of, save_head
from tissuary.heads.saving.saved import load_head
from tissuary.heads.saving.trees import FlatBoosting, FlatForest, FlatTrees
from tissuary.heads.saving.values import Packer, unpack
from tissuary.store.errors import DamagedFileError, FingerprintError, HeadError
from tissuary.tests.head_tables import made_up, unseen

STRICT = get_protocol("strict")
HEADS = [
    ("ridge", {}),
    ("ridge", {"mode": "hest", "pca": 5}),
    ("knn", {}),
    ("forest", {"trees": 5}),
    ("boosted", {"rounds": 6}),
    ("mlp", {"epochs": 1, "members": 2}),
    ("mlp", {"epochs": 1, "members": 1, "anchor": "ridge"}),
    ("patient-mean", {}),
    ("shuffled", {}),
    ("coordinates-smooth", {}),
]


class Averaging(HeadModule):
    """Own features, those near by and those of look-alikes, and what these expressed."""

    def __init__(self, shape):
        super().__init__()
        self.genes = nn.Linear(3 * sum(shape.dims) + shape.n_genes, shape.n_genes)
        self.register_buffer("centre", torch.zeros(1))

    def forward(self, batch):
        x = torch.cat(batch.x, dim=1)
        near, alike = (
            (values[around.position] * around.mask[..., None]).mean(1)
            for values, around in ((x, batch.space), (x, batch.feature))
        )
        expressed = (batch.expression[batch.feature.position] * batch.feature.mask[..., None]).mean(1)
        return self.genes(torch.cat([x[batch.rows], near, alike, expressed], dim=1)) - self.centre.mean()


class Neighbourly(NeuralHead):
    """A user's own head, whose buffer takes a shape that only training knows."""

    expression = True

    def __init__(self, *, anchor=None, seed=0):
        super().__init__(neighbours="both", anchor=anchor, epochs=1, members=2, seed=seed, device="cpu")

    def build(self, shape):
        return Averaging(shape)

    def prepare(self, module, data, rows, *, seed):
        module.centre = torch.full((len(rows),), 0.25)


@pytest.fixture(scope="module")
def train():
    return made_up()


@pytest.mark.parametrize(("name", "options"), HEADS, ids=lambda one: json.dumps(one))
def test_every_kind_of_head_comes_back_bit_for_bit(name, options, train, tmp_path):
    head = make_head(name, **options).fit(train)
    save_head(head, tmp_path / "run", table=train, protocol=STRICT)
    saved = load_head(tmp_path / "run")
    bare = unseen(train)[1]
    np.testing.assert_array_equal(saved.head.predict(bare), head.predict(bare))
    assert type(saved.head) is type(head)
    assert saved.panel == train.panel
    assert saved.record["head"] == name
    assert saved.record["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("anchor", [None, "ridge"])
def test_a_users_own_head_keeps_its_look_alikes(anchor, train, tmp_path):
    head = Neighbourly(anchor=anchor).fit(train)
    save_head(head, tmp_path, table=train, protocol=STRICT)
    again = load_head(tmp_path, head_class=Neighbourly).head
    bare = unseen(train)[1]
    np.testing.assert_array_equal(again.predict(bare), head.predict(bare))
    assert again.reference_.targets is None
    assert again.modules_[0].centre.shape == (len(train),)
    with pytest.raises(HeadError, match="which this version of tissuary lacks"):
        load_head(tmp_path)


def test_rows_for_look_alikes_are_kept_as_they_are_stored(train, tmp_path):
    halves = {
        key: replace(column, parts=tuple(part.astype(np.float16) for part in column.parts))
        for key, column in train.columns.items()
    }
    table = replace(train, columns=halves).select_rows(np.arange(0, len(train), 3)[::-1])
    head = Neighbourly().fit(table)
    save_head(head, tmp_path, table=table, protocol=STRICT)
    arrays = load_file(tmp_path / "head.safetensors")
    rows = [one for one in arrays.values() if one.dtype == np.float16]
    assert [one.shape for one in rows] == [(len(table), 12)]
    again = load_head(tmp_path, head_class=Neighbourly).head
    np.testing.assert_array_equal(again.reference_.features(), table.features())
    bare = unseen(train)[1]
    np.testing.assert_array_equal(again.predict(bare), head.predict(bare))


@pytest.fixture
def trained(make_store, tmp_path):
    """A head fitted on three slides of a store, saved; the store, and the fold's own test table."""
    store = make_store({f"{p}1": (p, 30 + i) for i, p in enumerate("ABCD")}, views=("20x", "5x"), n_genes=20)
    table = store.table(["toy@20x", "toy@5x"], control_keys=["haematoxylin@20x"])
    prepared = prepare(prepare_cohort(table, STRICT), Fold("last", (0, 1, 2), (3,)), STRICT)
    head = make_head("ridge").fit(prepared.train)
    headers = headers_of(store, table, patches="spots")
    save_head(
        head,
        tmp_path / "run",
        table=prepared.train,
        protocol=STRICT,
        headers=headers,
        preprocessing=prepared.preprocessing,
    )
    return store, prepared, head, load_head(tmp_path / "run")


def test_a_new_slide_gets_the_whole_values_that_a_comparison_gives(trained):
    store, prepared, head, saved = trained
    expected = head.predict(prepared.test) + prepared.test.target_offset[prepared.test.slide]
    table = store.table(saved.keys(), slides=["D1"], expression=False)
    np.testing.assert_allclose(saved.predict(table), expected, rtol=1e-6, atol=1e-6)
    ready = saved.prepare(table)
    some = np.arange(5, 20)
    np.testing.assert_allclose(saved.predict_prepared(ready.select_rows(some)), expected[some], atol=1e-6)
    assert ready.counts is None
    assert saved.offset.rule == "training mean"


def test_the_record_says_what_the_head_was_made_with(trained):
    _, prepared, head, saved = trained
    record = saved.record
    assert record["target"] == {"rule": "log1p-cp10k", "smoothing": "none", "centring": "slide"}
    assert record["protocol"] == json.loads(json.dumps(asdict(STRICT)))
    assert record["licences"] == {"toy": "none"}
    assert record["training"]["slides"] == list(prepared.train.slide_ids)
    assert record["chosen"]["alpha"] == head.alpha_
    assert record["preprocessing"]["spot_weight"] == "depth"
    assert [(one["key"], one["role"], one["precision"]) for one in record["features"]] == [
        ("toy@20x", "pooled", ["fp32"]),
        ("toy@5x", "pooled", ["fp32"]),
    ]
    assert saved.features[0].fingerprint == "print of toy@20x"


def test_ten_slides_carry_a_ridge_for_the_level_of_a_new_one(tmp_path):
    train = made_up("ABCDE")
    head = make_head("knn", k=5).fit(train)
    save_head(head, tmp_path, table=train, protocol=STRICT)
    saved = load_head(tmp_path)
    test = unseen(train)[1]
    assert saved.offset.rule == "ridge on slide-mean features"
    # By its definition: ridge with alpha = number of features on z-scored slide means, cut off at three.
    means = np.stack([train.features()[train.slide == one].mean(0) for one in range(10)]).astype(np.float64)
    spread = means.std(0)
    x = (means - means.mean(0)) / spread
    y = train.target_offset - train.target_offset.mean(0)
    weights = np.linalg.solve(x.T @ x + 12 * np.eye(12), x.T @ y)
    new = np.clip((test.features().mean(0) - means.mean(0)) / spread, -3, 3)
    expected = new @ weights + train.target_offset.mean(0)
    np.testing.assert_allclose(saved.prepare(test).target_offset[0], expected, atol=1e-4)


def test_heads_of_whole_values_get_no_level(train, tmp_path):
    head = make_head("knn", k=5).fit(train)
    save_head(head, tmp_path, table=train, protocol=replace(STRICT, target_centring="none"))
    saved, test = load_head(tmp_path), unseen(train)[1]
    np.testing.assert_array_equal(saved.offset.of(test), 0)


def test_other_features_are_refused(trained):
    store, _, _, saved = trained
    table = store.table(["toy@20x", "toy@5x"], slides=["D1"], expression=False)
    other = replace(table.columns["toy@5x"], fingerprint="another")
    with pytest.raises(FingerprintError, match="toy@5x has fingerprint another, this head learnt on print of"):
        saved.predict(replace(table, columns=table.columns | {"toy@5x": other}))
    with pytest.raises(HeadError, match="reads pooled features toy@5x, the table has toy@20x"):
        saved.predict(store.table("toy@20x", slides=["D1"], expression=False))
    narrow = replace(table.columns["toy@5x"], parts=(table.columns["toy@5x"].parts[0][:, :3],))
    with pytest.raises(HeadError, match=r"rows of shape \(3,\), this head learnt on \(8,\)"):
        saved.predict(replace(table, columns=table.columns | {"toy@5x": narrow}))
    with pytest.raises(HeadError, match="standardised already"):
        saved.predict(saved.prepare(table))


def test_columns_in_another_order_or_beside_others_do_no_harm(trained):
    store, _, _, saved = trained
    table = store.table(["toy@20x", "toy@5x"], slides=["D1"], expression=False)
    turned = store.table(["haematoxylin@20x", "toy@5x", "toy@20x"], slides=["D1"], expression=False)
    np.testing.assert_array_equal(saved.predict(turned), saved.predict(table))


def test_density_asks_for_its_control(trained, tmp_path):
    store, prepared, *_ = trained
    head = make_head("density").fit(prepared.train)
    save_head(head, tmp_path / "density", table=prepared.train, protocol=STRICT)
    saved = load_head(tmp_path / "density")
    assert (saved.keys(), saved.keys("control")) == ((), ("haematoxylin@20x",))
    table = store.table("toy@20x", slides=["D1"], expression=False, control_keys=["haematoxylin@20x"])
    expected = head.predict(prepared.test) + prepared.test.target_offset[prepared.test.slide]
    np.testing.assert_allclose(saved.predict(table), expected, rtol=1e-6, atol=1e-6)


def test_precision_and_up_sampling_are_checked(trained, caplog):
    store, *_, saved = trained
    header = store.header("toy@20x", "D1")
    assert saved.check({"toy@20x": (header,)}) == ()
    half = replace(header, precision="bf16")
    assert saved.check({"toy@20x": (half,)}) == ("toy@20x: computed in bf16, the head learnt on fp32",)
    assert "computed in bf16" in caplog.text
    with pytest.raises(HeadError, match="computed in int8, whose rounding is unknown or above the tolerance"):
        saved.check({"toy@20x": (replace(header, precision="int8"),)})
    blurred = replace(header, upsampling=1.3)
    assert check_headers(saved.features, {"toy@20x": (blurred,)}) == (
        "toy@20x: slide D1 is up-sampled 1.3 times, training slides were 1 to 1 times",
    )
    unknown = FeatureNeed("toy@20x", "pooled", (8,), "x")
    assert check_headers([unknown], {"toy@20x": (half,)}) == ()


def test_a_saved_forest_and_boosting_are_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 4)), rng.normal(size=(150, 3))
    new = np.concatenate([rng.normal(size=(60, 4)), x[:20]])  # training rows lie on thresholds' sides exactly
    forest = RandomForestRegressor(7, min_samples_leaf=3, random_state=0).fit(x, y)
    np.testing.assert_array_equal(FlatForest.of(forest).predict(new), forest.predict(new))
    model = HistGradientBoostingRegressor(max_iter=9, max_depth=3, early_stopping=False).fit(x, y[:, 0])
    for ours, theirs in zip(FlatBoosting.of(model).staged_predict(new), model.staged_predict(new), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_trees_that_would_never_end_are_refused():
    with pytest.raises(HeadError, match="child before its parent"):
        FlatTrees(np.array([0, 2]), np.array([0, 0]), np.zeros(2), np.array([1, 0]), np.array([1, 1]), np.zeros((2, 1)))


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, "x", None, True],
        (1.0, (2, [3])),
        {"a": {1: (2,)}, "b": []},
        np.float32(1.5),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array(["a", "bc"]),
        np.array(7),
        np.zeros((0, 3)),
        float("inf"),
    ],
    ids=repr,
)
def test_values_come_back_as_they_were(value):
    packer = Packer()
    words = json.loads(json.dumps(packer.pack(value, "it")))
    found = unpack(words, packer.arrays)
    assert type(found) is type(value)
    if isinstance(value, np.ndarray):
        np.testing.assert_array_equal(found, value)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert value.ndim < 2 or found.flags.c_contiguous == value.flags.c_contiguous
    else:
        assert found == value


def test_what_cannot_be_saved_is_named(train, tmp_path):
    with pytest.raises(HeadError, match="Ridge has learnt nothing: fit it"):
        save_head(make_head("ridge"), tmp_path, table=train, protocol=STRICT)
    head = make_head("ridge").fit(train)
    head.odd_ = object()
    with pytest.raises(HeadError, match=r"head.odd_ is a builtins.object, which cannot be saved"):
        save_head(head, tmp_path, table=train, protocol=STRICT)
    with pytest.raises(HeadError, match="standardises features by 'train-pca256'"):
        save_head(head, tmp_path, table=train, protocol=replace(STRICT, feature_standardisation="train-pca256"))
    assert not list(tmp_path.iterdir())


class Forgetful:
    """Keeps what it predicts with under a private name."""

    def __init__(self, *, scale=1.0):
        self.scale = scale

    def fit(self, table):
        self.n_, self._level = table.targets.shape[1], 3.0
        return self

    def predict(self, table):
        return np.full((len(table), self.n_), getattr(self, "_level", 0.0), dtype=np.float32)


def test_a_head_that_comes_back_another_is_not_written(train, tmp_path):
    with pytest.raises(HeadError, match="Forgetful predicts other values after it was saved and read again"):
        save_head(Forgetful().fit(train), tmp_path, table=train, protocol=STRICT)
    assert not list(tmp_path.iterdir())


def test_files_that_are_damaged_foreign_or_apart_are_refused(train, tmp_path):
    with pytest.raises(HeadError, match="holds no saved head"):
        load_head(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, k in ((one, 5), (two, 6)):
        save_head(make_head("knn", k=k).fit(train), folder, table=train, protocol=STRICT)
    arrays = (one / "head.safetensors").read_bytes()
    (one / "head.safetensors").write_bytes(arrays[:-1] + bytes([arrays[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=r"is not the file that head\.json was written with"):
        load_head(one)
    text = (two / "head.json").read_text()
    (two / "head.json").write_text(text.replace('"encoding-version": "1"', '"encoding-version": "9"'))
    with pytest.raises(HeadError, match="tissuary-head version 9; this version of tissuary reads tissuary-head 1"):
        load_head(two)
    (two / "head.json").write_text(text.replace("heads.baselines.knn:NearestNeighbours", "os:system"))
    with pytest.raises(HeadError, match="needs os:system, which this version of tissuary lacks"):
        load_head(two)
    (two / "head.json").write_text(text[: len(text) // 2])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        load_head(two)


def test_a_head_moves_to_the_device_that_is_asked_for(train, tmp_path):
    head = make_head("mlp", epochs=1, members=1, device="cpu").fit(train)
    save_head(head, tmp_path, table=train, protocol=STRICT)
    assert load_head(tmp_path, device="auto").head.device == "auto"
    with pytest.raises(HeadError, match="device 'abacus'"):
        load_head(tmp_path, device="abacus")


@pytest.mark.parametrize(
    ("name", "options", "earlier"),
    [
        ("knn", {"k": 5}, {"heads.baselines.knn:": "heads.knn:"}),
        ("ridge", {}, {"heads.linear.ridge:": "heads.ridge:", "heads.linear.closed_form:": "heads.closed_form:"}),
        ("mlp", {"epochs": 1}, {"heads.baselines.mlp:": "heads.mlp:",
                                "heads.engine.network:NetworkShape": "heads.engine.module:Shape"}),
    ],
)  # fmt: skip
def test_a_head_of_an_earlier_version_is_read_where_its_classes_lie_now(name, options, earlier, train, tmp_path):
    head = make_head(name, **options).fit(train)
    save_head(head, tmp_path, table=train, protocol=STRICT)
    text = (tmp_path / "head.json").read_text()
    for now, before in earlier.items():
        assert now in text
        text = text.replace(now, before)
    (tmp_path / "head.json").write_text(text)
    expected = load_head(tmp_path).head.predict(train)
    np.testing.assert_array_equal(expected, head.predict(train))
