"""What tells predictions apart: device and precision of blocks, marks of pictures, and counts from predictions."""

import json
from dataclasses import replace

import anndata
import numpy as np
import pytest
import torch
from PIL import Image

from tissuary.featurize.sources.h5ad import read_h5ad, read_h5ad_counts
from tissuary.featurize.sources.load import load_cohort
from tissuary.heads import PredictOptions, TrainOptions, make_head, predict, train
from tissuary.heads.prediction import maps as map_picture
from tissuary.heads.prediction import predict as predicting
from tissuary.heads.prediction import slide as how
from tissuary.heads.prediction import slide as slide_prediction
from tissuary.heads.prediction.run import load_run
from tissuary.store.errors import CohortError, HeadError
from tissuary.tests.prediction_stores import measured
from tissuary.tests.source_files import tiff

ONE = PredictOptions(slides=("A1",), block_rows=9)
BARE = replace(ONE, pictures=False, geojson=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store and two runs that draw different genes."""
    folder = tmp_path_factory.mktemp("marks")
    store = measured(folder / "store", "AB")
    for name, panel in {"one": ("gene11",), "two": ("gene11", "gene10")}.items():
        train(store, folder / name, options=TrainOptions(panel=panel))
    return folder


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Pictures of few pixels: what is drawn is looked at in test_prediction_files.py."""
    monkeypatch.setattr(map_picture, "DPI", 30)


class Stopped(Exception):
    pass


def stop(slide, done, total):
    if done >= 18:
        raise Stopped


def rows_at_start(root, out):
    """Rows that a job goes on from."""
    seen = []
    predict(root / "one", root / "store", out, options=BARE, progress=lambda _, done, total: seen.append(done))
    return seen[0]


@pytest.mark.parametrize("field", ["device", "precision", "libraries"])
def test_blocks_of_another_device_precision_or_version_are_not_taken(field, root, tmp_path, monkeypatch):
    made = how.made_how
    with monkeypatch.context() as elsewhere, pytest.raises(Stopped):
        elsewhere.setattr(slide_prediction, "made_how", lambda *a, **k: {**made(*a, **k), field: "another"})
        predict(root / "one", root / "store", tmp_path, options=BARE, progress=stop)
    assert rows_at_start(root, tmp_path) == 0


def test_a_prediction_says_with_what_it_was_computed(root, tmp_path, monkeypatch):
    predict(root / "one", root / "store", tmp_path, options=BARE)
    said = anndata.read_h5ad(tmp_path / "A1.h5ad").uns["tissuary"]["computed"]
    assert said["device"] == f"cpu {torch.backends.cpu.get_cpu_capability()}"
    assert (said["precision"], said["threads"], said["torch"]) == ("fp32", 1, torch.__version__)
    assert "tissuary " in said["libraries"]
    inside = make_head("ensemble")
    inside.members_ = [make_head("ridge"), make_head("mlp", device="cuda:77")]
    with pytest.raises(HeadError, match="cuda:77"):  # it is asked of a network inside an ensemble
        how.made_how(inside, search="")
    monkeypatch.setattr(how, "half_precision", lambda device: torch.autocast(device.type, dtype=torch.bfloat16))
    assert how.made_how(make_head("mlp", device="cpu"), search="")["precision"] == "bf16"


def shown(folder):
    """Ids of runs by picture and GeoJSON."""
    found = {path.name: Image.open(path).text["tissuary-run"] for path in folder.glob("*.png")}
    return found | {path.name: json.loads(path.read_text())["tissuary-run"] for path in folder.glob("*.geojson")}


def test_pictures_of_an_old_run_do_not_stay_beside_a_new_one(root, tmp_path):
    old, new = (load_run(root / name).id for name in ("one", "two"))
    predict(root / "two", root / "store", tmp_path, options=replace(ONE, genes=("gene10",)))
    names = {"A1.gene10.png", "A1.familiarity.png", "A1.geojson"}
    assert shown(tmp_path) == dict.fromkeys(names, new)
    Image.new("RGB", (4, 4)).save(tmp_path / "A1.scan.png")  # somebody's own, and another slide's
    (tmp_path / "A1.left.gene10.png").write_bytes((tmp_path / "A1.gene10.png").read_bytes())
    (tmp_path / "A1.h5ad").unlink()
    predict(root / "one", root / "store", tmp_path, options=replace(ONE, geojson=False))
    kept = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert kept == {"A1.h5ad", "A1.gene11.png", "A1.familiarity.png", "A1.scan.png", "A1.left.gene10.png"}
    (tmp_path / "A1.scan.png").unlink()
    (tmp_path / "A1.left.gene10.png").unlink()
    assert set(shown(tmp_path).values()) == {old}


def test_pictures_that_show_another_prediction_are_drawn_anew(root, tmp_path):
    """Also where a job was killed after its .h5ad was whole; those that agree are left alone."""
    predict(root / "two", root / "store", tmp_path / "other", options=ONE)
    predict(root / "one", root / "store", tmp_path / "out", options=BARE)  # killed before it drew
    for path in (tmp_path / "other").glob("A1.[fg]*"):
        (tmp_path / "out" / path.name).write_bytes(path.read_bytes())
    (told,) = predict(root / "one", root / "store", tmp_path / "out", options=ONE).done
    assert told.kept
    assert {name.rsplit("/", 1)[1] for name in told.files} == {"A1.gene11.png", "A1.familiarity.png", "A1.geojson"}
    ours = shown(tmp_path / "out")
    assert {ours[name.rsplit("/", 1)[1]] for name in told.files} == {load_run(root / "one").id}
    assert predict(root / "one", root / "store", tmp_path / "out", options=ONE).done[0].files == ()
    (tmp_path / "out" / "A1.gene11.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    (tmp_path / "out" / "A1.geojson").write_text("[]")
    (told,) = predict(root / "one", root / "store", tmp_path / "out", options=ONE).done
    assert {name.rsplit("/", 1)[1] for name in told.files} == {"A1.gene11.png", "A1.geojson"}


def test_a_job_killed_between_anndata_and_pictures_draws_them_later(root, tmp_path, monkeypatch):
    predict(root / "two", root / "store", tmp_path, options=replace(ONE, pictures=False))
    (tmp_path / "A1.h5ad").unlink()

    def killed(*words, **options):
        raise Stopped

    with monkeypatch.context() as then:
        then.setattr(predicting, "read_slide_map", killed)
        with pytest.raises(Stopped):
            predict(root / "one", root / "store", tmp_path, options=ONE)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["A1.h5ad"]
    predict(root / "one", root / "store", tmp_path, options=replace(ONE, pictures=False))
    assert shown(tmp_path) == {"A1.geojson": load_run(root / "one").id}


def test_a_prediction_is_not_read_as_counts(root, tmp_path):
    predict(root / "one", root / "store", tmp_path, options=BARE)
    path = tmp_path / "A1.h5ad"
    tiff(tmp_path / "A1.tif")
    told = r"A1\.h5ad was made by `tissuary predict`: its X is predicted expression, no counts"
    with pytest.raises(CohortError, match=told):
        load_cohort(path)
    for read in (read_h5ad, read_h5ad_counts):
        with pytest.raises(CohortError, match=told):
            read(path)
    (tmp_path / "manifest.csv").write_text("slide_id,image,counts\nA1,A1.tif,A1.h5ad\n")
    with pytest.raises(CohortError, match=told):
        load_cohort(tmp_path).samples[0].read_measured()
    adata = anndata.read_h5ad(path)
    adata.X, adata.uns["tissuary"] = np.rint(adata.X), "of ours"  # measured, and a word that is no table
    adata.write_h5ad(path)
    assert read_h5ad(path).counts.shape == adata.shape
