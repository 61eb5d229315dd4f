"""Train and predict: the numbers are those of a comparison, whatever the blocks, and after a kill."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from safetensors.numpy import load_file

from tissuary.heads import PredictOptions, TrainOptions, make_head, predict, train
from tissuary.heads.comparison.inputs import usable_table
from tissuary.heads.comparison.preparation import prepare, prepare_cohort
from tissuary.heads.prediction import maps as map_picture
from tissuary.heads.prediction.run import load_run
from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import Fold
from tissuary.store import Store
from tissuary.store.errors import DamagedFileError, HeadError, ProtocolError, StoreError
from tissuary.store.files.atomic import atomic_path
from tissuary.store.files.lock import slide_lock
from tissuary.tests.prediction_stores import GRID, KEY, MPP, add_slide, measured

BARE = PredictOptions(pictures=False, geojson=False)
SMALL = TrainOptions(panel_size=8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("measured") / "store")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A slide that nobody measured, on a grid."""
    root = tmp_path_factory.mktemp("dense") / "store"
    add_slide(root, "Z1", patient="Z", n=400, seed=7, patches=GRID)
    return Store(root)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(store, folder, options=SMALL)
    return folder


def trained(store, folder, head):
    train(store, folder, options=replace(SMALL, head=head))
    return load_run(folder, device="cpu")


WINDOW = {"slide": False, "dim": 8, "epochs": 1, "members": 1}
NEIGHBOURS = "triplex:" + ",".join(f"{name}={json.dumps(value)}" for name, value in WINDOW.items())


@pytest.mark.parametrize(("name", "options", "words"), [("ridge", {}, "ridge"), ("triplex", WINDOW, NEIGHBOURS)])
def test_a_run_predicts_what_a_comparison_would(name, options, words, tmp_path):
    """To the bit where every spot has counts; one without is a neighbour to `predict` alone, and changes no other."""
    store, empty = measured(tmp_path / "store"), [0, 1, 6]  # a corner of the 6 x 6 array
    add_slide(tmp_path / "store", "E1", patient="E", seed=4, empty=empty)
    report = train(store, tmp_path / "run", options=replace(SMALL, head=words, slides=("A1", "B1", "C1")))
    assert (report.slides, report.spots, report.genes) == (("A1", "B1", "C1"), 108, 8)
    told = predict(tmp_path / "run", store, tmp_path / "out", options=replace(BARE, slides=("D1", "E1")))
    assert not told.failed
    strict = replace(get_protocol("strict"), panel_size=8)
    table, _ = usable_table(store, (KEY,), patches="spots", tokens=False)
    fold = prepare(prepare_cohort(table, strict), Fold("D", train=(0, 1, 2), test=(3, 4)), strict)
    head = make_head(name, **options).fit(fold.train)
    whole, holed = (fold.test.select_slides([one]) for one in range(2))
    expected = [head.predict(one) + one.target_offset[one.slide] for one in (whole, holed)]
    found = [anndata.read_h5ad(tmp_path / "out" / f"{slide}.h5ad") for slide in ("D1", "E1")]
    assert tuple(found[0].var_names) == fold.train.panel
    np.testing.assert_array_equal(found[0].X, expected[0])
    kept = np.setdiff1d(np.arange(36), empty)
    assert (len(found[1]), len(holed)) == (36, len(kept))
    place = found[1].obsm["spatial"] * MPP
    away = np.linalg.norm(place[kept, None] - place[None, empty], axis=2).min(axis=1)
    beyond = away > load_run(tmp_path / "run").context_um
    off = np.abs(found[1].X[kept] - expected[1]).max(axis=1)
    assert off[beyond].max() < 1e-5
    assert beyond.all() if name == "ridge" else off[~beyond].max() > 1e-3


def test_blocks_change_nothing_for_a_head_that_looks_at_rows_alone(run, dense, tmp_path):
    for rows in (400, 37):
        predict(run, dense, tmp_path / str(rows), options=replace(BARE, block_rows=rows))
    whole, cut = (anndata.read_h5ad(tmp_path / name / "Z1.h5ad") for name in ("400", "37"))
    np.testing.assert_allclose(cut.X, whole.X, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.obs.distance, whole.obs.distance, rtol=1e-5)
    np.testing.assert_array_equal(
        whole.X, load_run(run).saved.predict(dense.table(KEY, patches=GRID, expression=False))
    )


@pytest.mark.parametrize(
    ("head", "context_um"),
    [
        ("coordinates", None),
        ("slide-feature-mean", None),
        ("ensemble:members=ridge+triplex:slide=false;dim=8;epochs=1;members=1", 600.0),
    ],
)
def test_blocks_change_nothing_for_a_head_that_looks_around(head, context_um, store, dense, tmp_path, monkeypatch):
    run = trained(store, tmp_path / "run", head)
    assert run.context_um == context_um
    if head.startswith("ensemble"):
        run.saved.head.weights_ = np.ones(2)  # one epoch may earn a network no weight
    table = dense.table(KEY, patches=GRID, expression=False)
    expected = run.saved.predict(table)

    def found(name):
        predict(run, dense, tmp_path / name, options=replace(BARE, block_rows=64))
        return anndata.read_h5ad(tmp_path / name / "Z1.h5ad").X

    np.testing.assert_allclose(found("blocks"), expected, rtol=0, atol=3e-5)
    if head != "slide-feature-mean":  # this one has one value a slide, near the level of all of them
        monkeypatch.setattr(type(run.saved.head), "context_um", 0.0)
        assert np.abs(found("without-rim") - expected).max() > 3e-4


KILLED = """
import os, signal, sys
from tissuary.heads import PredictOptions, predict
def progress(slide, done, total):
    if done >= 150:
        os.kill(os.getpid(), signal.SIGKILL)
import torch
torch.set_num_threads(1)
predict(*sys.argv[1:4], options=PredictOptions(block_rows=25), progress=progress)
"""


def test_a_killed_job_goes_on_and_ends_in_the_same_file(run, dense, tmp_path):
    command = [sys.executable, "-c", KILLED, str(run), str(dense.path), str(tmp_path / "killed")]
    found = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == -signal.SIGKILL, found.stderr
    left = sorted(path.name for path in (tmp_path / "killed").iterdir() if path.is_file())
    assert left == [".Z1.h5ad.journal", ".Z1.h5ad.partial-f4"]
    seen = []
    options = replace(BARE, block_rows=25)
    predict(run, dense, tmp_path / "killed", options=options, progress=lambda _, done, total: seen.append(done))
    assert seen[0] >= 150
    assert seen[-1] == 400
    predict(run, dense, tmp_path / "whole", options=options)
    assert (tmp_path / "killed" / "Z1.h5ad").read_bytes() == (tmp_path / "whole" / "Z1.h5ad").read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir() if path.is_file()] == ["Z1.h5ad"]


class Stopped(Exception):
    pass


def stop_at(rows):
    def progress(slide, done, total):
        if done >= rows:
            raise Stopped

    return progress


@pytest.mark.parametrize("harm", ["flipped", "other blocks", "rows lost"])
def test_what_an_unfinished_job_left_is_not_trusted_blindly(harm, run, dense, tmp_path, caplog):
    options = replace(BARE, block_rows=50)
    with pytest.raises(Stopped):
        predict(run, dense, tmp_path, options=options, progress=stop_at(150))
    rows = tmp_path / ".Z1.h5ad.partial-f4"
    if harm == "flipped":
        content = bytearray(rows.read_bytes())
        content[4] ^= 1
        rows.write_bytes(content)
    elif harm == "rows lost":
        rows.unlink()
    seen = []
    again = replace(options, block_rows=60) if harm == "other blocks" else options
    predict(run, dense, tmp_path, options=again, progress=lambda _, done, total: seen.append(done))
    assert seen[0] == 0
    expected = load_run(run).saved.predict(dense.table(KEY, patches=GRID, expression=False))
    np.testing.assert_allclose(anndata.read_h5ad(tmp_path / "Z1.h5ad").X, expected, rtol=1e-5, atol=1e-6)


def test_what_is_there_is_kept_and_what_is_another_runs_is_refused(run, store, tmp_path):
    options = replace(BARE, slides=("A1", "B1"))
    assert [one.kept for one in predict(run, store, tmp_path, options=options).done] == [False, False]
    before = (tmp_path / "A1.h5ad").stat()
    assert [one.kept for one in predict(run, store, tmp_path, options=options).done] == [True, True]
    assert (tmp_path / "A1.h5ad").stat() == before
    train(store, tmp_path / "other", options=replace(SMALL, panel_size=5))
    told = predict(tmp_path / "other", store, tmp_path, options=replace(options, slides=("A1", "C1")))
    assert [one.slide_id for one in told.done] == ["C1"]
    assert "A1.h5ad is there already, made with another run" in dict(told.failed)["A1"]


def test_features_of_another_encoder_are_refused(run, tmp_path):
    add_slide(tmp_path / "store", "Y1", fingerprint="another")
    told = predict(run, tmp_path / "store", tmp_path / "out")
    assert told.done == ()
    assert "has fingerprint another, this" in dict(told.failed)["Y1"]
    assert not (tmp_path / "out" / "Y1.h5ad").exists()


def test_what_a_run_cannot_do_is_said(run, store, dense, tmp_path):
    with pytest.raises(HeadError, match="actin: not among the 8 genes that this run predicts"):
        predict(run, dense, tmp_path, options=PredictOptions(genes=("actin",)))
    with pytest.raises(StoreError, match=r"has no patch set 'spots': there are grid-112um; choose one with `patches="):
        predict(run, dense, tmp_path, options=PredictOptions(patches="spots", slides=("Z1",)))
    with pytest.raises(HeadError, match="no saved head"):
        predict(tmp_path, dense, tmp_path)
    with pytest.raises(HeadError, match="one head"):
        train(store, tmp_path, options=TrainOptions(head="all"))
    with pytest.raises(HeadError, match="diagnostic"):
        train(store, tmp_path, options=TrainOptions(head="depth"))
    with pytest.raises(ProtocolError, match=r'train-pca256.*add `standardise="slide"`'):
        train(store, tmp_path, options=TrainOptions(protocol="hest-bench/a1"))
    with pytest.raises(StoreError, match="no slide 'Q9' has features and counts: there are A1, B1"):
        train(store, tmp_path, options=TrainOptions(slides=("Q9",)))


def test_a_run_whose_files_do_not_belong_together_is_refused(run, store, tmp_path):
    train(store, tmp_path, options=replace(SMALL, panel_size=4))
    reference = (tmp_path / "reference.safetensors").read_bytes()
    (tmp_path / "reference.safetensors").write_bytes((run / "reference.safetensors").read_bytes())
    with pytest.raises(DamagedFileError, match="of another head"):
        load_run(tmp_path)
    (tmp_path / "reference.safetensors").write_bytes(reference[:-9])
    with pytest.raises(DamagedFileError, match="cannot be read"):
        load_run(tmp_path)
    (tmp_path / "reference.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="does not exist"):
        load_run(tmp_path)


def test_maps_are_of_the_genes_that_differ_most(store, run):
    spread = load_file(run / "reference.safetensors")["gene_spread"]
    loaded = load_run(run)
    strict = replace(get_protocol("strict"), panel_size=8)
    fold = prepare(prepare_cohort(store.table(KEY), strict), Fold("all", (0, 1, 2, 3), (0,)), strict)
    expected = [
        np.std([row - fold.train.targets[fold.train.slide == s].mean(0) for s in range(4) for row in
                fold.train.targets[fold.train.slide == s]], axis=0)
    ][0]  # fmt: skip
    np.testing.assert_allclose(spread, expected, rtol=1e-5)
    assert loaded.shown_genes(2) == tuple(np.array(loaded.saved.panel)[np.argsort(-expected)[:2]])


def test_the_commands(store, dense, tmp_path, monkeypatch, capsys):
    from tissuary.cli.main import main

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["tissuary", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, said = called(
        "train", store.path, "--head", "ridge:alpha=6", "--slides", "A1", "B1", "--out", tmp_path / "run", "--json"
    )
    assert code == 0, said.err
    told = json.loads(said.out)
    assert (told["head"], told["slides"], told["genes"]) == ("ridge (alpha=6)", ["A1", "B1"], 12)
    assert load_run(tmp_path / "run").saved.record["options"]["alpha"] == 6
    code, said = called(
        "predict",
        tmp_path / "run",
        dense.path,
        "--genes",
        "gene3",
        "gene5",
        "--no-pictures",
        "--out",
        tmp_path / "maps",
    )
    assert code == 0, said.err
    assert "Z1: 400 tiles of grid-112um" in said.out
    names = {path.name for path in (tmp_path / "maps").iterdir() if path.is_file()}
    assert names == {"Z1.h5ad", "Z1.geojson"}
    code, said = called("predict", tmp_path / "run", store.path, "--patches", GRID, "--out", tmp_path / "maps")
    assert (code, "or make it with `tissuary featurize SOURCE" in said.err) == (2, True)


def test_two_jobs_do_not_write_one_slide(run, store, tmp_path):
    with slide_lock(tmp_path, "A1"):
        told = predict(run, store, tmp_path, options=replace(BARE, slides=("A1", "B1")))
    assert [one.slide_id for one in told.done] == ["B1"]
    assert "another job is writing slide A1" in dict(told.failed)["A1"]


def test_controls_make_maps_too(make_store, tmp_path):
    store = make_store({f"{patient}1": (patient, 25) for patient in "ABC"}, n_genes=10)
    train(store, tmp_path / "run", options=TrainOptions(head="density", panel_size=5))
    told = predict(tmp_path / "run", store, tmp_path / "out", options=replace(BARE, slides=("A1",)))
    assert not told.failed
    found = anndata.read_h5ad(tmp_path / "out" / "A1.h5ad").X
    assert (np.ptp(found, axis=0) > 1e-4).all()


@pytest.mark.parametrize("head", ["ridge", "coordinates"])
def test_an_empty_slide_and_one_of_one_spot_are_predicted(head, store, tmp_path, monkeypatch):
    monkeypatch.setattr(map_picture, "DPI", 30)
    train(store, tmp_path / "run", options=replace(SMALL, head=head))
    for name, n in (("None1", 0), ("One1", 1)):
        add_slide(tmp_path / "store", name, n=n, patches=GRID)
    options = PredictOptions(genes=("gene11",), pictures=head == "ridge", geojson=False)
    told = predict(tmp_path / "run", tmp_path / "store", tmp_path / "out", options=options)
    assert not told.failed
    assert [one.rows for one in told.done] == [0, 1]
    assert anndata.read_h5ad(tmp_path / "out" / "None1.h5ad").shape == (0, 8)
    assert np.isfinite(anndata.read_h5ad(tmp_path / "out" / "One1.h5ad").X).all()
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == ({"One1.gene11.png", "One1.familiarity.png"} if head == "ridge" else set())


def test_what_a_killed_job_was_writing_is_removed_and_nothing_else(run, dense, tmp_path):
    """Two jobs die while they write a GeoJSON; a living one writes a third, and a folder below is another's."""
    dying = "import os, sys; from pathlib import Path; from tissuary.store.files.atomic import atomic_path\n"
    dying += "with atomic_path(Path(sys.argv[1])) as path:\n    path.write_text('half'); os._exit(9)"
    for name in ("Z1.geojson", "Z10.geojson", "below/Z1.geojson"):
        assert subprocess.run([sys.executable, "-c", dying, tmp_path / name], check=False).returncode == 9
    (tmp_path / ".Z1.notes").write_text("mine")
    assert len(list(tmp_path.rglob(".*"))) == 4
    with atomic_path(tmp_path / "Z2.geojson"):
        predict(run, dense, tmp_path, options=BARE)
        left = sorted(path for path in tmp_path.rglob(".*") if path.is_file())
    names = [path.relative_to(tmp_path).as_posix().split(".partial")[0] for path in left]
    assert names == [".Z1.notes", ".Z2.geojson", "below/.Z1.geojson"]
