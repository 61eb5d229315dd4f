"""CLAM files into a store: features without attributes, patches apart, plain tensors."""

import os
import pickle

import h5py
import numpy as np
import pytest
import torch

from tissuary.store import Store
from tissuary.tests.foreign_files import (
    bring,
    clam,
    contents,
    corners,
    growing,
    only,
    record_of,
    refusal,
    run_command,
    vectors,
)

KEY, SET = "toynet@127.7um-0.499", "clam-127.7um"
SAID = {"mpp": 0.499, "encoder": "toynet"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path):
    return tmp_path / "clam"


def test_features_take_scale_from_the_patches_beside_them(source, root):
    values = vectors(12)
    clam(source, "s1", corners(), values)
    done = only(bring(source, root, "clam", **SAID))
    assert (done.key, done.patches, done.dtype) == (KEY, SET, "float32")
    assert done.declared == ("mpp=0.499", "encoder=toynet")
    store = Store(root)
    assert store.features(KEY, "s1", patches=SET).tobytes() == values.tobytes()
    np.testing.assert_array_equal(store.patches("s1", patches=SET).center_px, corners() + 128.0)
    header, slide = store.header(KEY, "s1", patches=SET), store.slide("s1")
    assert (slide.width_px, slide.height_px) == (4000, 3000)
    assert header.fov_um == 256 * 0.499
    assert record_of(header)["details"] == {"patch_size": 256, "patch_level": 0, "downsample": 1.0}
    assert "somebody" not in str(header.record)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"mpp": 0.499}, "does not say which encoder made its features.*--encoder NAME"),
        ({"encoder": "toynet"}, "CLAM does not say um/px.*--mpp X"),
        ({**SAID, "patch_px": 512.0}, "declared are patches of 512 level-0 px, CLAM says 256: leave out --patch-px"),
    ],
)
def test_what_is_not_declared_or_contradicts_is_refused(source, root, said, match):
    import re

    clam(source, "s1", corners(), vectors(12))
    assert re.search(match, refusal(bring(source, root, "clam", **said)))
    assert not root.exists()


def test_features_alone_need_their_patches_or_a_declared_side(source, root):
    path = clam(source, "s1", corners(), vectors(12))
    assert "give the folder of the patches files with --coords DIR, or declare the side" in refusal(
        bring(path, root, "clam", **SAID)
    )
    done = only(bring(path, root, "clam", **SAID, patch_px=256.0))
    assert (done.key, "patch_px=256.0" in done.declared) == (KEY, True)
    assert not only(bring(path, root, "clam", coords=source / "patches_dir" / "patches", **SAID)).written


def test_patches_of_a_coarser_level_are_larger_at_level_0(source, root):
    clam(source, "s1", corners(step=1024), vectors(12), patch_level=1, downsample=4.0001)
    done = only(bring(source, root, "clam", **SAID))
    header = Store(root).header(done.key, "s1", patches=done.patches)
    assert header.fov_um == pytest.approx(256 * 4.0001 * 0.499)
    assert header.mpp == pytest.approx(4.0001 * 0.499)
    place = Store(root).patches("s1", patches=done.patches)
    np.testing.assert_allclose(place.center_px, corners(step=1024) + 512.0128)
    slide = Store(root).slide("s1")
    assert (slide.width_px, slide.height_px) == (4865, 3073)  # of the patches: the file says 1000 x 750, of level 1


def test_tensors_alone_take_their_rows_from_the_patches(source, root):
    values = vectors(12)
    path = clam(source, "s1", corners(), values, form="pt")
    assert "give the folder of the patches files with --coords" in refusal(bring(path, root, "clam", **SAID))
    done = only(bring(path, root, "clam", coords=source / "patches_dir", **SAID))
    store = Store(root)
    assert store.features(done.key, "s1", patches=SET).tobytes() == values.tobytes()
    np.testing.assert_array_equal(store.patches("s1", patches=SET).center_px, corners() + 128.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_tensors_stay_or_are_said_to_be_rounded(source, root, dtype):
    path = clam(source, "s1", corners(), vectors(12), form="pt")
    tensor = torch.from_numpy(vectors(12).astype(np.float64) / 3).to(dtype)
    torch.save(tensor, path)
    done = only(bring(path, root, "clam", coords=source / "patches_dir", **SAID))
    found = torch.from_numpy(np.array(Store(root).features(done.key, "s1", patches=SET)))
    if dtype == torch.float64:
        assert done.notes == ("features were rounded from float64 to float32, the widest that a store holds",)
        assert torch.equal(found, tensor.float())
    else:
        assert done.notes == ()
        assert found.dtype == (torch.float16 if dtype == torch.float16 else torch.float32)
        assert torch.equal(found.double(), tensor.double())


class _Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["TISSUARY_TEST_EVIL"],)


def test_tensors_that_are_none_are_refused_and_never_run(source, root, tmp_path, monkeypatch):
    monkeypatch.setenv("TISSUARY_TEST_EVIL", str(tmp_path / "ran"))
    good = clam(source, "good", corners(), vectors(12), form="pt").read_bytes()
    held = {
        "code": lambda p: torch.save(_Evil(), p),
        "plain pickle": lambda p: p.write_bytes(pickle.dumps([1, 2], protocol=2)),
        "dict": lambda p: torch.save({"features": torch.zeros(12, 3)}, p),
        "whole": lambda p: torch.save(torch.zeros(12, 3, dtype=torch.int64), p),
        "cut": lambda p: p.write_bytes(good[: len(good) // 2]),
        "nothing": lambda p: p.write_bytes(b""),
        "fewer": lambda p: torch.save(torch.zeros(11, 3), p),
    }
    for name, write in held.items():
        write(clam(source, name, corners(), vectors(12), form="pt"))
    report = bring(source, root, "clam", **SAID)
    assert [done.slide_id for done in report.done] == ["good"]
    causes = {name.split("/")[-1].removesuffix(".pt"): why for name, why in report.failed}
    assert causes.keys() == held.keys()
    for name in ("code", "plain pickle", "cut", "nothing"):
        assert "cannot be read as a plain tensor" in causes[name]
    assert "holds dict; wanted one floating-point tensor" in causes["dict"]
    assert "holds Tensor; wanted one floating-point tensor" in causes["whole"]
    assert "11 rows of features, 12 patches" in causes["fewer"]
    assert not (tmp_path / "ran").exists()


def test_cut_off_flipped_and_odd_files(source, root):
    whole = clam(source, "whole", corners(), vectors(12), form="both").parent
    clam(source, "unfinished", corners(), vectors(12))  # no tensor, which CLAM writes last
    clam(source, "others", corners(), vectors(12), form="both")
    with h5py.File(source / "feats" / "h5_files" / "others.h5", "a") as file:
        file["coords"][0] += 1
    clam(source, "cut", corners(), vectors(12), form="both")
    cut = source / "feats" / "h5_files" / "cut.h5"
    cut.write_bytes(cut.read_bytes()[:2000])
    clam(source, "bad\nname", corners(), vectors(12), form="both")
    clam(source, "slide (2) 1+1", corners(), vectors(12), form="both")
    report = bring(source, root, "clam", **SAID)
    assert [done.slide_id for done in report.done] == ["slide (2) 1+1", "whole"]
    causes = {name.split("/")[-1].removesuffix(".h5"): why for name, why in report.failed}
    assert "is unfinished: CLAM writes" in causes["unfinished"]
    assert "its coordinates are not those of" in causes["others"]
    assert "is not a whole HDF5 file" in causes["cut"]
    assert "slide id 'bad\\nname' cannot become a file name" in causes["bad\nname"]
    assert whole.name == "pt_files"


def test_the_same_corner_twice_names_two_rows(source, root):
    """Contours that touch give the same patch twice; both rows stay."""
    twice = np.concatenate([corners(), corners()[:1]])
    clam(source, "s1", twice, vectors(13))
    done = only(bring(source, root, "clam", **SAID))
    place = Store(root).patches("s1", patches=done.patches)
    assert place.barcode.tolist()[0] == "x768y0"
    assert place.barcode.tolist()[-1] == "x768y0-2"
    assert len(place) == 13


def test_patches_of_the_kind_that_kept_pixels(source, root):
    path = source / "patches" / "s1.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        growing(file, "imgs", np.zeros((12, 64, 64, 3), np.uint8)).attrs.update(
            {"patch_level": 1, "wsi_name": "s1", "downsample": (4.0, 4.0), "level_dim": (1000, 750)}
        )
        growing(file, "coords", corners(step=256).astype(np.int32))
    done = only(bring(source, root, "clam", mpp=0.499))
    assert (done.key, done.patches, done.shape) == (None, SET, (12, 2))
    np.testing.assert_array_equal(Store(root).patches("s1", patches=SET).center_px, corners() + 128.0)


def test_two_folders_of_features_cannot_share_a_declared_encoder(source, root):
    clam(source, "s1", corners(), vectors(12))
    (source / "feats").rename(source / "feats_a")
    clam(source, "s2", corners(), vectors(12))
    (source / "feats").rename(source / "feats_b")
    report = bring(source, root, "clam", **SAID)
    assert [done.slide_id for done in report.done] == ["s1"]
    assert "import one of them at a time, so that --encoder toynet is said of the right one" in report.failed[0][1]


def test_importing_again_and_other_values(source, root):
    clam(source, "s1", corners(), vectors(12))
    bring(source, root, "clam", **SAID)
    before = contents(root)
    assert not only(bring(source, root, "clam", **SAID)).written
    assert contents(root) == before
    clam(source, "s1", corners(), vectors(12, seed=4))
    assert "holds other features of this slide" in refusal(bring(source, root, "clam", **SAID))
    clam(source, "s1", corners(), vectors(12) + np.float32(1e-6))  # beside the last bit
    assert "holds other features of this slide" in refusal(bring(source, root, "clam", **SAID))
    assert contents(root) == before


@pytest.mark.usefixtures("real_data")
def test_files_of_clam_itself(real_data, tmp_path):
    folder, name = real_data / "foreign" / "clam", "CMU-1-Small-Region"
    with h5py.File(folder / "feats" / "h5_files" / f"{name}.h5") as file:
        values, top_left = file["features"][()], file["coords"][()]
    tensor = torch.load(folder / "feats" / "pt_files" / f"{name}.pt", weights_only=True).numpy()
    code, _, err = run_command("import", folder, "--format", "clam", "--store", tmp_path / "a", "--mpp", "0.499")
    assert code == 2
    assert "--encoder NAME" in err
    said = ("--format", "clam", "--mpp", "0.499", "--encoder", "resnet50", "--store")
    code, _, err = run_command("import", folder, *said, tmp_path / "a")
    assert code == 0, err
    assert "declared mpp=0.499, encoder=resnet50" in err
    pt = folder / "feats" / "pt_files" / f"{name}.pt"
    code, _, err = run_command("import", pt, *said, tmp_path / "b", "--coords", folder / "patches_dir")
    assert code == 0, err
    for root, expected in ((tmp_path / "a", values), (tmp_path / "b", tensor)):
        store = Store(root)
        assert store.features("resnet50@127.7um-0.499", name, patches=SET).tobytes() == expected.tobytes()
        np.testing.assert_array_equal(store.patches(name, patches=SET).center_px, top_left + 128.0)
        slide = store.slide(name)
        assert (slide.width_px, slide.height_px, slide.mpp) == (2220, 2967, 0.499)
    with h5py.File(folder / "patches_dir" / "patches" / f"{name}.h5") as file:
        np.testing.assert_array_equal(file["coords"][()], top_left)
    code, _, err = run_command(
        "import", folder / "patches_dir" / "patches", "--format", "clam", "--mpp", "0.499", "--store", tmp_path / "c"
    )
    assert code == 0, err
    assert "49 patches" in err
