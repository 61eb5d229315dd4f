"""Python doors as a new user tries them: the only patch set, wrong names and types, the same words in commands."""

import re
import shutil
import sys

import numpy as np
import pytest

from tissuary.cli.main import main
from tissuary.featurize import FeaturizeOptions
from tissuary.heads import CompareOptions, PredictOptions, TrainOptions, compare, make_head, train
from tissuary.heads.comparison.plan import make_plan
from tissuary.heads.registry import HEADS
from tissuary.store import Store
from tissuary.store.errors import TissuaryError
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import features_path
from tissuary.store.search.record import BuildOptions

KEY = "toy@20x"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; returns exit code and stderr."""

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, capsys.readouterr().err

    return go


@pytest.fixture(scope="module")
def store(make_shared_store):
    made = make_shared_store({"a1": ("A", 16), "a2": ("A", 12), "b1": ("B", 16)}, n_genes=12, views=("20x", "10x"))
    made.build_index(KEY)
    made.build_index("toy@10x")
    return Store(made.path)


@pytest.fixture(scope="module")
def grid(store, tmp_path_factory):
    """The same store with its patch set under another name, as a cohort without spots has."""
    root = tmp_path_factory.mktemp("grid") / "grid.store"
    shutil.copytree(store.path, root, ignore=shutil.ignore_patterns("indexes", "catalog.*"))
    for kind in ("patches", "features"):
        (root / kind / "spots").rename(root / kind / "grid-112um")
    return Store(root)


def test_doors_use_the_only_patch_set(grid, store):
    assert grid.default_patches == "grid-112um"
    assert (grid.features(KEY, "a1") == store.features(KEY, "a1")).all()
    assert grid.header(KEY, "a1").slide_id == "a1"
    assert grid.keys() == store.keys()
    assert grid.slides_with(KEY) == ("a1", "a2", "b1")
    assert len(grid.table(KEY, expression=False)) == len(store.table(KEY)) == 44
    assert grid.neighbours("a1", 4).index.shape == (16, 4)
    grid.build_index(KEY)
    assert grid.search("a1", 3)[0] == store.search("a1", 3, key=KEY)[0]
    assert len(make_plan(grid, CompareOptions(heads=("ridge",))).table) == 44


def test_several_patch_sets_without_spots_are_named_with_the_argument(grid, run, tmp_path):
    root = tmp_path / "two.store"
    shutil.copytree(grid.path, root, ignore=shutil.ignore_patterns("indexes"))
    shutil.copytree(root / "patches" / "grid-112um", root / "patches" / "grid-448um")
    message = r'several patch sets, grid-112um, grid-448um: choose one with `patches="grid-112um"`'
    for door in (
        lambda: Store(root).features(KEY, "a1"),
        lambda: Store(root).table(KEY),
        lambda: Store(root).search("a1", 0),
        lambda: compare(root),
    ):
        with pytest.raises(TissuaryError, match=message):
            door()
    code, err = run("search", root, "--slide", "a1", "--patch", 0)
    assert (code, "choose one with `--patches grid-112um`" in err) == (2, True)


@pytest.mark.parametrize(
    ("door", "said"),
    [
        (
            lambda s: s.features("toy@20", "a1"),
            "no features 'toy@20' on 'spots': did you mean toy@20x.*There are haemato",
        ),
        (lambda s: s.features("toy", "a1"), "did you mean toy@10x or toy@20x"),
        (lambda s: s.features("a1", KEY), r"\(a slide comes after the key\)"),
        (lambda s: s.features(KEY, "A1"), "no slide 'A1': did you mean a1.*There are a1, a2, b1"),
        (lambda s: s.features(KEY, "a1", patches="spot"), "no patch set 'spot': did you mean spots"),
        (lambda s: s.header("toy@5x", "a1"), "no features 'toy@5x' on 'spots'"),
        (lambda s: s.patches("a9"), "no slide 'a9'"),
        (lambda s: s.slide("a9"), "no slide 'a9'"),
        (lambda s: s.places("a9"), "no slide 'a9'"),
        (lambda s: s.neighbours("a1", 4, patches="grid"), r'there are spots; choose one with `patches="spots"`'),
        (lambda s: s.table("toy@5x"), "no features 'toy@5x' on 'spots': did you mean toy@"),
        (lambda s: s.table(KEY, slides=["a9"]), "no slide 'a9'"),
        (lambda s: s.table(5), "keys: 5 is no name; wanted a string"),
        (lambda s: s.build_index("toy@5x"), "no features 'toy@5x'"),
        (lambda s: s.search("a9", 1), "slide 'a9' is not in the index of toy@20x.*there are a1, a2, b1|did you mean"),
        (lambda s: s.search("a1", 1, key="toy@5x"), "no features 'toy@5x' on 'spots'"),
        (lambda s: s.search("a1", "AACG-1"), "no patch 'AACG-1' in 'spots': give a row number or a barcode; its first"),
        (lambda s: s.search("a1", 1.0), "patch 1.0 of slide 'a1': give a row"),
        (lambda s: s.search(2, 1), "slide 2 is not in the index of toy@20x"),
        (lambda s: s.neighbours("a1", "8"), "k = '8': ask for a whole number of neighbours"),
        (lambda s: s.search("a1", 1, k="3"), "k = '3': ask for a whole number"),
        (lambda s: s.search("a1", 1, exclude="patients"), "exclude 'patients': choose patient or slide"),
    ],
)
def test_what_does_not_exist_is_met_by_what_does(store, door, said):
    with pytest.raises(TissuaryError, match=said):
        door(store)


def test_a_slide_without_a_key_names_those_that_have_it(make_store):
    store = make_store({"a1": ("A", 6), "b1": ("B", 6)}, n_genes=4)
    features_path(store.path, "b1", key=KEY).unlink()
    for door in (lambda: store.features(KEY, "b1"), lambda: store.table(KEY, slides=("a1", "b1"))):
        with pytest.raises(
            TissuaryError, match="slide b1 has no features toy@20x on 'spots'; slides that have them are a1"
        ):
            door()


def test_a_row_a_number_as_text_and_a_barcode_are_one_patch(store):
    barcode = str(store.patches("a1").barcode[7])
    assert store.search("a1", 7) == store.search("a1", "7") == store.search("a1", barcode)
    assert store.search("a1", 7) == store.search("a1", 7, key=KEY)  # the finest of the indexed views


def test_a_bare_string_is_one_name(store):
    assert FeaturizeOptions(views="20x", backbones="stain-texture", grid_um=112).views == ("20x",)
    assert FeaturizeOptions(views=["20x", "5x"]).views == ("20x", "5x")
    assert CompareOptions(heads="ridge", protocols="strict", view_sets="20x+10x").view_sets == (("20x", "10x"),)
    assert CompareOptions(view_sets=("20x", ("20x", "10x"))).view_sets == (("20x",), ("20x", "10x"))
    assert TrainOptions(views="20x", slides="a1").slides == ("a1",)
    assert PredictOptions(genes="CD74").genes == ("CD74",)
    assert store.table(KEY, slides="a1").slide_ids == ("a1",)
    for wrong in ({"mpp": "0.5"}, {"weights": "uni=uni.bin"}, {"readers": "2"}, {"views": (20,)}):
        with pytest.raises(TissuaryError, match=r"wanted a (whole number|number|dict|string)"):
            FeaturizeOptions(**wrong)


def test_heads_take_options_as_commands_write_them():
    head = make_head("nh2st:neighbours=both,anchor=ridge", members=1)
    assert (head.neighbours, head.anchor, head.members) == ("both", "ridge", 1)
    assert make_head("ridge:hest").mode == "hest"
    assert make_head("knn:k=7", k=3).k == 3
    for name, options, said in (
        ("nh2st:neighbors=both", {}, "head 'nh2st' has no option 'neighbors': did you mean neighbours"),
        ("knn", {"K": 3}, "head 'knn' has no option 'K': did you mean k"),
        ("knn:paper", {}, "head 'knn' has no mode 'paper'; of options there are k"),
        ("mean", {"k": 3}, "head 'mean' has no option 'k': it has none"),
        ("Ridge", {}, "there is no head 'Ridge': did you mean ridge"),
        ("nhst2", {}, "did you mean nh2st"),
        (3, {}, "there is no head '3': there are mean"),
    ):
        with pytest.raises(TissuaryError, match=said):
            make_head(name, **options)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("nh2st:papr", "'nh2st' has no mode 'papr': did you mean paper. Choose default, context, paper"),
        ("nh2st:neighbours", "no mode 'neighbours': choose default, context, paper"),
        ("nh2st:neighbours=bth", "no neighbours 'bth': did you mean both. Choose off, space, feature, both"),
        ("egn:neighbours=space", "no neighbours 'space': choose feature, off"),
        ("mmap:anchor=rigde", "no anchor 'rigde': did you mean ridge. Choose ridge, None"),
        ("mmap:bank=slides", "no bank 'slides': choose prototypes, slide-mean"),
        ("cmrc:tokens=gird", "no tokens 'gird': did you mean grid"),
        ("m2ort:levels=7", "no levels 7: choose all, 0, 1, 2"),
        ("ridge:alpha=x", "take alpha='x': give a number or None"),
        ("ridge:alpha=-1", "take alpha=-1: give 0 or more"),
        ("mlp:epochs=ten", "take epochs='ten': give a whole number or None"),
        ("mlp:epochs=2.5", "take epochs=2.5: give a whole number"),
        ("mlp:members=0", "take members=0: give 1 or more"),
        ("mlp:members=none", "take members=None: give a whole number"),
        ("mlp:dropout=2", "take dropout=2: give a share below 1"),
        ("knn:k=true", "take k=True: give a whole number"),
        ("forest:trees=0", "take trees=0: give 1 or more"),
        ("mlp:device=gpu", "take device='gpu': choose auto, cpu, cuda, or one GPU such as cuda:1"),
        ("nh2st:shuffled=1", "take shuffled=1: give True or False"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_before_anything_is_trained(store, tmp_path, head, said):
    with pytest.raises(TissuaryError, match=said):
        make_head(head)
    with pytest.raises(TissuaryError, match=said):
        compare(store, options=CompareOptions(heads=("ridge", head), cells=tmp_path / "cells"))
    assert not (tmp_path / "cells").exists()


def test_values_as_numpy_and_the_commands_write_them_are_taken():
    assert make_head("mlp", epochs=np.int64(3), dropout=np.float32(0.5), anchor=None).epochs == 3
    assert make_head("ridge:alpha=2").alpha == 2  # a whole number is a number
    assert make_head("m2ost:levels=1,vectors=false,rank=none").levels == 1
    for name, entry in HEADS.items():
        for mode in ("default", *entry.modes) if entry.modes else ():
            assert make_head(name, mode=mode).mode in (mode, "context")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrainOptions(panel_size="5"), "panel_size='5': wanted a whole number or None"),
        (lambda: TrainOptions(head=3), "head=3: wanted a string"),
        (lambda: CompareOptions(jobs="2"), "jobs='2': wanted a whole number"),
        (lambda: PredictOptions(block_rows=2.5), "block_rows=2.5: wanted a whole number"),
        (lambda: PredictOptions(pictures="no"), "pictures='no': wanted True or False"),
        (lambda: FeaturizeOptions(mpp="0.5"), "mpp='0.5': wanted a number or None"),
        (lambda: FeaturizeOptions(batch=True), "batch=True: wanted a whole number or None"),
        (lambda: BuildOptions(recall="high"), "recall='high': wanted a number"),
    ],
)
def test_options_of_another_type_are_named(make, said):
    with pytest.raises(TissuaryError, match=said):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": ("nh2st:neighbors=both",)}, "has no option 'neighbors'"),
        ({"heads": "rdge"}, "there is no head 'rdge': did you mean ridge"),
        ({"protocols": "strct"}, "there is no protocol 'strct': did you mean strict"),
        ({"backbones": "to"}, "no features of backbone 'to' on 'spots': did you mean toy"),
        ({"view_sets": "5x"}, r"no features toy@5x .*views of toy: 20x, 10x"),
    ],
)
def test_a_comparison_refuses_a_wrong_word_before_it_trains(store, tmp_path, options, said):
    with pytest.raises(TissuaryError, match=said):
        compare(str(store.path), options=CompareOptions(**options, cells=tmp_path / "cells"))
    assert not (tmp_path / "cells").exists()


def test_training_and_prediction_name_what_there_is(store, tmp_path):
    from tissuary.heads import predict

    with pytest.raises(TissuaryError, match="no slide 'a9' has features and counts: there are a1, a2, b1"):
        train(store, tmp_path / "run", options=TrainOptions(slides="a9"))
    train(store.path, tmp_path / "run", options=TrainOptions(views="20x"))
    with pytest.raises(TissuaryError, match=r"gen1: not among the 12 genes .*did you mean gene1"):
        predict(tmp_path / "run", store, tmp_path / "maps", options=PredictOptions(genes="gen1"))
    with pytest.raises(TissuaryError, match="no slide 'a9': there are a1, a2, b1"):
        predict(tmp_path / "run", store, tmp_path / "maps", options=PredictOptions(slides="a9"))
    with pytest.raises(TissuaryError, match="it is a run of `tissuary train`"):
        predict(store, tmp_path / "run", tmp_path / "maps")


def test_commands_say_options_where_python_says_arguments(store, run, tmp_path):
    root = tmp_path / "two.store"
    shutil.copytree(store.path, root)
    other = Store(root)
    with write_features(features_path(root, "a1", key="other@20x"), other.header(KEY, "a1"), shape=(16, 4)) as writer:
        writer.append(other.features(KEY, "a1")[:, :4])
    with pytest.raises(TissuaryError, match=r'features of other, toy on \'spots\': choose with `backbone="other"`'):
        compare(root)
    code, err = run("train", root, "--head", "ridge", "--out", tmp_path / "run")
    assert (code, "choose with `--backbone other`" in err) == (2, True)
    code, err = run(
        "train", root, "--head", "ridge", "--backbone", "toy", "--patches", "grid", "--out", tmp_path / "run"
    )
    assert (code, "there are spots; choose one with `--patches spots`" in err) == (2, True)
    assert not re.search(r"`\w+=", err)
