"""One key holds one encoder: a second one is refused by every door before anything is computed or written."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.dry_run import dry_run
from tissuary.featurize.workers.messages import SlideTask, StartFailed, Worker, WorkerConfig
from tissuary.featurize.workers.processes import posts_of
from tissuary.featurize.workers.ray_ import RayWorker
from tissuary.store.errors import FingerprintError, StoreError
from tissuary.store.files.features import read_features
from tissuary.store.files.lock import is_locked, key_lock, slide_lock
from tissuary.store.files.same_encoder import KeyFingerprints
from tissuary.store.files.schema import features_path
from tissuary.store.files.writer import open_job
from tissuary.synthetic.cohort import write_cohort
from tissuary.tests.foreign_files import (
    bring,
    contents,
    corners,
    hest_names,
    hest_patches,
    run_command,
    trident,
    vectors,
)

HOW = {"plan": {}, "block_rows": 2, "order": np.arange(6)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, patients=3, slides_per_patient=1, spots_per_side=3, pitch_um=150.0, n_genes=12)
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two record files of one key that differ in `version`, as after an update of the record."""
    folder = tmp_path_factory.mktemp("records")
    paths = [folder / "v1.json", folder / "v2.json"]
    for version, path in zip("12", paths, strict=True):
        path.write_text(replace(get_record("stain-texture"), key="mine", version=version).to_json())
    return paths


def options(record, **changes):
    return replace(
        FeaturizeOptions(views=("20x",), backbones=(str(record),), readers=1, grid_um=(112.0,), min_tissue=0.2),
        **changes,
    )


@pytest.fixture(scope="module")
def images(cohort, tmp_path_factory):
    """The cohort without its first slide, and its first slide alone; pixels only, on a grid."""
    first, others = (tmp_path_factory.mktemp(name) for name in ("first", "others"))
    one, *rest = sorted((cohort / "images").iterdir())
    shutil.copy(one, first)
    for path in rest:
        shutil.copy(path, others)
    return first, others


@pytest.fixture(scope="module")
def made(images, records, tmp_path_factory):
    """A store with one slide under version 1."""
    root = tmp_path_factory.mktemp("store") / "store"
    assert featurize(images[0], root, options=options(records[0])).done
    return root


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_run_with_another_version_of_the_record_is_refused_before_its_first_slide(images, records, root):
    before = everything(root), contents(root)
    said = r"mine@20x of slide P01-S1 is in the store with .* \(version \"1\" there, \"2\" here\).*`--as NAME`"
    with pytest.raises(FingerprintError, match=said):
        featurize(images[1], root, options=options(records[1]))
    with pytest.raises(FingerprintError, match=said):
        dry_run(images[1], root, options=options(records[1]))
    assert (everything(root), contents(root)) == before
    report = featurize(images[1], root, options=options(records[1], name="newer"))
    assert [slide.written for slide in report.done] == [2, 2]  # haematoxylin@20x too
    assert {"mine@20x", "newer@20x"} <= {path.name for path in root.glob("features/*/*")}


@pytest.mark.parametrize("extra", [(), ("--dry-run",)])
def test_the_command_ends_with_2_and_names_the_way_out(images, records, root, extra):
    words = ("featurize", images[1], "--store", root, "--backbone", records[1], "--views", "20x", *extra)
    code, _, err = run_command(*words)
    assert (code, "--as NAME" in err, "FAILED" in err) == (2, True, False)


def test_workers_of_every_engine_refuse_before_they_begin(images, records, root):
    post = WorkerConfig(str(images[1]), "auto", root, options(records[1], device="cpu,cpu"))
    for name, one in posts_of(post).items():
        said = Worker(name, one).hello()
        assert isinstance(said, StartFailed)
        assert isinstance(said.error, FingerprintError)
    said = RayWorker("ray", replace(post, options=options(records[1]))).hello()
    assert isinstance(said, StartFailed)
    assert "--as NAME" in str(said.error)


def test_a_ray_job_is_refused_as_a_whole(images, records, root):
    pytest.importorskip("ray", reason="ray is not installed; its worker is tried in this process above")
    with pytest.raises(FingerprintError, match="--as NAME"):
        featurize(images[1], root, options=options(records[1], engine="ray"))


def test_another_patch_set_is_the_same_key(cohort, records, root):
    with pytest.raises(FingerprintError, match="mine@20x of slide P01-S1"):
        featurize(cohort / "manifest.csv", root, options=options(records[1], patches="spots", grid_um=()))


def test_a_store_of_an_older_version_with_one_encoder_a_patch_set_goes_on(cohort, images, records, root, tmp_path):
    """They did not compare patch sets: what is there goes on in its own one, and a third encoder is refused."""
    spots = {"patches": "spots", "grid_um": ()}
    assert not featurize(cohort / "manifest.csv", tmp_path / "other", options=options(records[1], **spots)).failed
    for path in (tmp_path / "other").rglob("P02-S1.h*"):
        place = root / path.relative_to(tmp_path / "other")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (cohort / "later.csv").write_text(re.sub(r"P01.*\n", "", (cohort / "manifest.csv").read_text()))
    report = featurize(cohort / "later.csv", root, options=options(records[1], **spots))
    assert {slide.slide_id: slide.written for slide in report.done} == {"P02-S1": 0, "P03-S1": 2}
    assert [slide.written for slide in featurize(images[0], root, options=options(records[0])).done] == [0]
    third = tmp_path / "v3.json"
    third.write_text(records[0].read_text().replace('"version": "1"', '"version": "3"'))
    for changes in (spots, {}):
        with pytest.raises(FingerprintError, match=r'"3" here.*--as NAME'):
            featurize(cohort / "later.csv", root, options=options(third, **changes))


def test_patches_that_were_cut_already_are_not_put_beside_those_cut_from_slides(records, root, tmp_path):
    """The encoder is the same; how pixels were cut is part of a fingerprint, and only the slide tells it."""
    path = hest_patches(tmp_path / "patches" / "h1.h5", corners(2, 2, step=162), hest_names(2, 2), side=162)
    before = everything(root)
    with pytest.raises(FingerprintError, match="the records agree: weights, view or the way pixels are read differ"):
        featurize(path, root, options=replace(options(records[0]), grid_um=(), min_tissue=0.5))
    assert everything(root) == before
    report = featurize(path, root, options=replace(options(records[0], name="precut"), grid_um=(), min_tissue=0.5))
    assert [slide.patches for slide in report.done] == [4]


def test_the_density_control_that_no_option_renames_is_a_key_of_each_patch_set(header):
    root, mine = header
    keys = KeyFingerprints(root)
    keys.check("haematoxylin@20x", {"another"}, mine.record, patches="grid-112um")
    with pytest.raises(FingerprintError, match="`--as` does not rename haematoxylin, so use another store"):
        keys.check("haematoxylin@20x", {"another"}, mine.record, patches="spots")
    with pytest.raises(FingerprintError, match="`--as NAME`"):
        keys.check("toy@20x", {"another"}, mine.record, patches="grid-112um")


def test_token_grids_and_several_views_are_named_together(images, records, root):
    wide = options(records[0], views=("20x", "10x"), tokens=("2x2",))
    featurize(images[0], root, options=wide)
    with pytest.raises(FingerprintError) as caught:
        featurize(images[1], root, options=replace(wide, backbones=(str(records[1]),)))
    assert caught.value.__notes__ == ["The same holds for mine@20x.grid2x2, mine@10x, mine@10x.grid2x2."]


def test_of_two_jobs_that_start_together_the_second_is_refused(images, records, tmp_path):
    """The first has begun a slide and written nothing whole; its lock tells that it lives."""
    root = tmp_path / "store"
    first, second = (Worker(name, WorkerConfig(str(images[1]), "auto", root, options(record))) for name, record in
                     zip("ab", records, strict=True))  # fmt: skip
    seen = []

    def meanwhile(slide_id, done, total):
        if not seen:
            other = "P03-S1" if slide_id == "P02-S1" else "P02-S1"
            seen.append(second.embed(SlideTask(other, None, 1, 1), lambda *_: None).outcome)

    assert first.embed(SlideTask("P02-S1", None, 1, 1), meanwhile).outcome.done
    assert isinstance(seen[0].error, FingerprintError)
    assert "mine@20x of slide P02-S1 is being written by another job" in str(seen[0].error)
    assert [path.name for path in (root / "features").rglob("*.h5")] == ["P02-S1.h5"] * 2  # and haematoxylin@20x


@pytest.fixture
def header(make_store):
    store = make_store({"a1": ("A", 6), "a2": ("A", 6), "b1": ("B", 6)}, n_genes=3)
    path = features_path(store.path, "a1", key="toy@20x")
    return store.path, read_features(path).header


def test_a_damaged_file_says_nothing_and_the_next_is_asked(header):
    root, mine = header
    features_path(root, "a1", key="toy@20x").write_bytes(b"cut")
    KeyFingerprints(root).check("toy@20x", {mine.fingerprint}, mine.record)
    with pytest.raises(FingerprintError, match="toy@20x of slide a2"):
        KeyFingerprints(root).check("toy@20x", {"another"}, mine.record)
    for name in ("a2", "b1"):
        features_path(root, name, key="toy@20x").write_bytes(b"")
    KeyFingerprints(root).check("toy@20x", {"another"}, mine.record)  # nothing is known
    KeyFingerprints(root / "none").check("toy@20x", {"another"}, mine.record)


def test_what_a_dead_job_left_unfinished_does_not_count_and_what_a_living_one_writes_does(header):
    root, mine = header
    path = features_path(root, "c1", key="new@20x")
    with open_job(path, replace(mine, slide_id="c1"), shape=(6, 3), **HOW):
        pass
    keys = KeyFingerprints(root)
    keys.check("new@20x", {"another"}, mine.record, slide_id="c2")
    with slide_lock(root, "c1"):
        assert is_locked(root, "c1")
        with pytest.raises(FingerprintError, match="new@20x of slide c1 is being written by another job"):
            keys.check("new@20x", {"another"}, mine.record, slide_id="c2")
        keys.check("new@20x", {"another"}, mine.record, slide_id="c1")  # its own leftovers are replaced
    assert not is_locked(root, "c1")
    assert not is_locked(root, "c9")


def test_a_key_is_listed_once_a_job_however_many_slides_it_has(header, monkeypatch):
    from tissuary.store.files import same_encoder as one_encoder

    root, mine = header
    listed = []
    listdir = one_encoder.os.listdir
    monkeypatch.setattr(one_encoder.os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    keys = KeyFingerprints(root)
    for number in range(50):
        with keys.adding({"toy@20x": replace(mine, slide_id=f"n{number}")}, patches="spots"):
            pass
    assert len(listed) == 1


def test_a_key_is_locked_while_its_first_file_is_begun(header):
    import fcntl

    root, mine = header
    keys, lock = KeyFingerprints(root), root / ".locks" / "new@20x.key"
    with keys.adding({"new@20x": mine}, patches="spots"), lock.open("r+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with key_lock(root, "new@20x"):
        pass


def test_a_newer_file_of_the_key_is_not_passed_over(header):
    import h5py

    root, mine = header
    with h5py.File(features_path(root, "a1", key="toy@20x"), "a") as file:
        file.attrs["encoding-version"] = "9"
    with pytest.raises(StoreError, match="newer"):
        KeyFingerprints(root).check("toy@20x", {mine.fingerprint}, mine.record)


def test_an_import_is_refused_before_anything_is_written(header, tmp_path):
    root = header[0]
    trident(tmp_path / "job", "s9", corners(), vectors(12), encoder="toy", patch_size=224, patch_size_level0=224)
    before = contents(root)
    words = ("import", tmp_path / "job", "--format", "trident", "--store", root, "--mpp", "0.5", "--view", "20x")
    code, _, err = run_command(*words)
    assert (code, "Store it beside the other with `--as NAME`" in err) == (2, True)
    assert contents(root) == before
    report = bring(tmp_path / "job", root, "trident", mpp=0.5, view="20x", name="toy-trident")
    assert [one.key for one in report.done] == ["toy-trident@20x"]


def test_an_import_of_two_encoders_under_one_name_is_refused_at_the_second(tmp_path):
    trident(tmp_path / "job", "s1", corners(), vectors(12), encoder="first")
    trident(tmp_path / "job", "s2", corners(), vectors(12), encoder="second")
    report = bring(tmp_path / "job", tmp_path / "store", "trident", mpp=0.5, name="shared")
    assert [one.slide_id for one in report.done] == ["s1"]
    ((_, why),) = report.failed
    assert "shared@128um-0.5 of slide s1 is in the store with fingerprint declared:first:" in why
    assert "s2" not in json.dumps(everything(tmp_path / "store" / "slides"))


def test_features_that_a_run_would_add_to_imported_ones_are_refused(images, records, tmp_path):
    trident(tmp_path / "job", "s1", corners(), vectors(12), encoder="mine", patch_size=224, patch_size_level0=224)
    assert bring(tmp_path / "job", tmp_path / "store", "trident", mpp=0.5, view="20x").done
    with pytest.raises(FingerprintError, match="mine@20x of slide s1 is in the store with fingerprint declared:mine:"):
        featurize(images[1], tmp_path / "store", options=options(records[0]))
