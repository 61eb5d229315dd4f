"""Files that an exchange must not take: two that could be meant, holes, absurd values; refused without a trace."""

import json
import multiprocessing
import os
import re
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from tissuary.store import Store
from tissuary.store.exchange.exporting import export_store
from tissuary.store.exchange.registry import exporter_named
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import features_path
from tissuary.tests.foreign_files import (
    bring,
    clam,
    corners,
    hest_embeddings,
    hest_names,
    hest_patches,
    only,
    refusal,
    stamp,
    trident,
    vectors,
)

NAMES = [name.encode() for name in hest_names()]
MARK = {
    **{"slide_mpp": 0.5, "fov_um": 128.0, "mpp": 0.5, "encoder": "toynet", "view": "128um-0.5"},
    **{"patches": "spots", "dtype": "float32"},
}


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def only_the_good(report, root):
    """The refusal of slide `bad`, of which nothing is in the store, where `good` is."""
    assert [done.slide_id for done in report.done] == ["good"]
    assert {path.stem for path in root.rglob("*.h5")} == {"good"}
    assert len(report.failed) == 1
    return report.failed[0][1]


def spoilt(job, root, change, **changed):
    """Import a TRIDENT slide `bad` whose opened file went through `change`, and a good one after it."""
    with h5py.File(trident(job, "bad", corners(), vectors(12), **changed), "r+") as file:
        change(file)
    trident(job, "good", corners(), vectors(12))
    return only_the_good(bring(job, root, "trident", mpp=0.5), root)


def test_clam_features_with_two_patchings_are_not_given_the_last(job, root):
    """The corners of 512 px patches are among those of 256 px patches, which sort after them."""
    clam(job / "x512", "s1", corners(4, 3, step=512, start=(0, 0)), vectors(12), patch_size=512)
    clam(job / "y256", "s1", corners(8, 6, start=(0, 0)), vectors(48), patch_size=256)
    shutil.rmtree(job / "y256" / "feats")
    said = {"mpp": 0.5, "encoder": "toynet"}
    assert "differ; give the folder of its own with --coords" in refusal(bring(job, root, "clam", **said))
    why = refusal(bring(job / "x512", root, "clam", coords=job / "y256", **said))
    assert "its coordinates are not those of" in why
    assert not root.exists()
    done = only(bring(job, root, "clam", coords=job / "x512", **said))
    assert Store(root).header(done.key, "s1", patches=done.patches).fov_um == 256.0
    shutil.copytree(job / "x512" / "patches_dir", job / "x512" / "copy")
    assert not only(bring(job / "x512", root, "clam", **said)).written  # two that say the same are one


def test_hest_embeddings_with_other_patches_beside_them_are_refused(job, root):
    path = hest_embeddings(job / "toynet" / "s1.h5", corners(), hest_names(), vectors(12))
    hest_patches(job / "b162" / "patches" / "s1.h5", corners() + 81, hest_names(), side=162)
    assert "its barcodes and coordinates are not those of" in refusal(bring(job, root, "hest", encoder="toynet"))
    turned = np.random.default_rng(0).permutation(12)
    hest_patches(job / "a324" / "patches" / "s1.h5", corners()[turned], np.array(hest_names())[turned], side=324)
    assert "could both be its patches; choose with --coords" in refusal(bring(job, root, "hest", encoder="toynet"))
    assert not root.exists()
    done = only(bring(path, root, "hest", coords=job / "a324", encoder="toynet"))
    assert Store(root).header(done.key, "s1").fov_um == pytest.approx(324 * 0.69)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"slide_id": "a"}, "slide a|another image or scale"),
        ({"source_digest": "f" * 64}, "another image or scale"),
        ({"slide_mpp": 0.25}, "another image or scale"),
    ],
)
def test_features_of_another_image_with_the_same_patches_are_not_exported(make_store, tmp_path, changed, match):
    store = make_store({"a": ("A", 9), "b": ("B", 9)})
    header, path = store.header("toy@20x", "b"), features_path(store.path, "b", key="toy@20x")
    path.unlink()
    with write_features(path, replace(header, **changed), shape=(9, 3)) as writer:
        writer.append(np.ones((9, 3), np.float32))
    report = export_store(Store(store.path), tmp_path / "out", exporter_named("trident"), keys=["toy@20x"])
    assert [done.slide_id for done in report.done] == ["a"]
    assert report.failed[0][0] == "b"
    assert re.search(match, report.failed[0][1])


def test_two_keys_of_one_trident_file_are_refused_and_not_dropped(make_store, tmp_path):
    store = make_store({"a": ("A", 9)})
    path = features_path(store.path, "a", key="toy@112um-0.5")
    with write_features(path, store.header("toy@20x", "a"), shape=(9, 3)) as writer:
        writer.append(np.ones((9, 3), np.float32))
    for _ in range(2):  # the second time files are there already
        report = export_store(
            Store(store.path), tmp_path / "out", exporter_named("trident"), keys=["toy@20x", "toy@112um-0.5"]
        )
        assert report.done == ()
        assert "toy@112um-0.5 and toy@20x would both be" in report.failed[0][1]


@pytest.mark.parametrize("name", ["features", "coords"])
def test_rows_that_were_never_written_are_not_zeros(job, root, name):
    def change(file):
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        rows = file.create_dataset(name, values.shape, values.dtype, chunks=(1, values.shape[1]), maxshape=(None, 9))
        rows[:8] = values[:8]
        rows.attrs.update(attributes)

    assert f"{name!r} was never written whole" in spoilt(job, root, change)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"patches": 5}, "is not what an export writes (patches is 5)"),
        ({"slide_mpp": "0.5"}, "is not what an export writes (slide_mpp is '0.5')"),
        ({"fov_um": True}, "is not what an export writes (fov_um is True)"),
        ({"view": None}, "is not what an export writes (view is None)"),
        ({"patches": "../../x"}, "cannot become a file name"),
        ({"mpp": -1.0}, "wanted positive ones"),
    ],
)
def test_a_mark_of_other_types_is_refused(job, root, changed, match):
    text = json.dumps(MARK | changed)
    assert match in spoilt(job, root, lambda file: file["coords"].attrs.update({"tissuary": text}))


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"level0_width": 1e30}, "are beyond any slide"),
        ({"patch_size": 1e30}, "um/px; wanted 0.05 to 20"),
        ({"patch_size_level0": 1e18, "level0_width": None}, "is beyond any slide"),
        ({"patch_size_level0": 1e18, "patch_size": 1e18, "level0_width": None}, "is beyond any slide"),
    ],
)
def test_absurd_sizes_are_refused(job, root, changed, match):
    assert match in spoilt(job, root, lambda _: None, **changed)


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("tissuary_barcode", np.array([b"a", b"b"]), "barcodes are (2,) for 12 patches"),
        ("tissuary_center", np.zeros((5, 2)), "centres are (5, 2) for 12 patches"),
        ("tissuary_array", np.zeros((5, 2), np.int32), "rows and columns are (5, 2) for 12 patches"),
        ("tissuary_center", np.full((12, 2), 1e13), "where no slide does"),
    ],
)
def test_extras_of_other_lengths_leave_no_slide_behind(job, root, name, values, match):
    assert match in spoilt(job, root, lambda file: file.create_dataset(name, data=values))


@pytest.mark.parametrize("name", [b"a\nb", b"a\0b"])
def test_barcodes_that_no_patch_file_holds_leave_no_slide_behind(job, root, name):
    for slide_id, names in (("bad", [name, *NAMES[1:]]), ("good", NAMES)):
        hest_embeddings(job / "toynet" / f"{slide_id}.h5", corners(), names, vectors(12))
    why = only_the_good(bring(job, root, "hest", encoder="toynet", mpp=0.5, patch_px=224.0), root)
    assert "holds a line break or NUL" in why


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda values: values.to_sparse(), "cannot be read as a plain tensor"),
        (lambda values: values.to(torch.float8_e4m3fn), "cannot be read as a plain tensor"),
        (lambda values: values[0, 0].clone(), r"float32 (); wanted floating-point (n, dim)"),
    ],
)
def test_tensors_of_other_kinds_are_refused(job, root, make, match):
    for slide_id in ("bad", "good"):
        path = clam(job, slide_id, corners(), vectors(12), form="pt")
        if slide_id == "bad":
            torch.save(make(torch.from_numpy(vectors(12))), path)
    assert match in only_the_good(bring(job, root, "clam", mpp=0.5, encoder="toynet"), root)


def test_tensors_that_were_being_trained_are_values_like_others(job, root):
    torch.save(torch.nn.Parameter(torch.from_numpy(vectors(12))), clam(job, "s1", corners(), vectors(12), form="pt"))
    done = only(bring(job, root, "clam", mpp=0.5, encoder="toynet"))
    np.testing.assert_array_equal(Store(root).features(done.key, "s1", patches=done.patches), vectors(12))


def test_what_no_check_foresaw_fails_one_file_and_no_more(job, root):
    """A patient's id with a NUL is refused by HDF5 alone, when the slide is written."""
    for slide_id in ("bad", "good"):
        trident(job, slide_id, corners(), vectors(12))
    report = bring(job, root, "trident", mpp=0.5, patient_of={"bad": "P\0"})
    assert "does not hold what its format says (ValueError" in only_the_good(report, root)


def _import_in_vain(job, root):
    report = bring(job, root, "trident", mpp=0.5)
    os._exit(7 if "links to other files are not followed" in refusal(report) else 1)


def test_a_link_to_a_pipe_is_not_opened(job, root, tmp_path):
    path = trident(job, "s1", corners(), vectors(12))
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(path, "r+") as file:
        del file["coords"]
        file["coords"] = h5py.ExternalLink(str(tmp_path / "pipe"), "coords")
    child = multiprocessing.get_context("fork").Process(target=_import_in_vain, args=(job, root))
    child.start()
    child.join(8)
    hung = child.is_alive()
    child.kill()
    child.join()
    assert (hung, child.exitcode) == (False, 7)


@pytest.mark.parametrize("mpp", [499.0, 0.0005])
def test_a_scale_that_no_slide_has_is_refused(job, root, mpp):
    trident(job, "s1", corners(), vectors(12))
    assert "; a slide has 0.05 to 20. Correct it." in refusal(bring(job, root, "trident", mpp=mpp))
    assert not root.exists()


@pytest.mark.parametrize(
    ("um", "mpp", "doubted"),
    [
        (256.0, 0.5, True),  # 512 px: 1024 px of 0.25 or 256 of 1.0 would look the same
        (256.0, 0.25, True),
        (256.0, 0.47, True),  # drift over 20 tiles, of which the usual square of 4096 px holds 7
        (514 * 0.499, 0.499, False),
    ],
)
def test_a_scale_that_stamps_coordinates_leave_open_is_said_to_be(job, root, um, mpp, doubted):
    index = np.stack(np.divmod(np.arange(400), 20)[::-1], axis=1)
    stamp(job, "s1", index * um, vectors(400))
    notes = only(bring(job, root, "stamp", mpp=mpp)).notes
    assert any(f"do not tell whether STAMP read {mpp:g} um/px" in note for note in notes) == doubted
