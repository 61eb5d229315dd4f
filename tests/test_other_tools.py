"""Output of other tools: what TRIDENT's jobs say beside their HDF5, and tools that are named without an importer."""

import json
import logging
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
import zarr

from tissuary.featurize.backbones.architectures import said
from tissuary.featurize.one_slide import isolated
from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.sources.sample import Sample
from tissuary.heads.comparison.trials import TrialCache
from tissuary.store import Store
from tissuary.store.errors import plain_reason
from tissuary.store.files.schema import tool_output
from tissuary.synthetic.cohort import write_cohort
from tissuary.tests.foreign_files import (
    bring,
    clam,
    contents,
    corners,
    only,
    refusal,
    run_command,
    stamp,
    trident,
    vectors,
)

ADVICE = ("weights_only", "allow_pickle", "trust_remote_code", "safe_globals", "arbitrary code", "unsafely")


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


class Harmful:
    """Runs `touch PATH` when it is unpickled freely."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def as_pt(path, *, config=True, values=None):
    """TRIDENT's features file again as `saveas="pt"` writes it: `torch.save` of a numpy array, no attributes."""
    with h5py.File(path, "r") as file:
        values = file["features"][()] if values is None else values
    torch.save(values, path.with_suffix(".pt"))
    path.unlink()
    if config:
        (path.parent.parent / f"_config_{path.parent.name.replace('features', 'feats')}.json").write_text("{}")
    return path.with_suffix(".pt")


def state(job, slide_id, *, digest="534444a4ae8f", mpp=0.499, size=(2220, 2967), **slide):
    """`wsi_states/<slide>__<12 hex>.json` of TRIDENT 0.3."""
    path = job / "wsi_states" / f"{slide_id}__{digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"mpp": mpp, "mag": 20, "dimensions": list(size), "level_count": 1}
    path.write_text(json.dumps({"meta": meta, "slide": {"name": slide_id} | slide, "schema_version": 2}))
    return path


# --- TRIDENT's features in .pt


@pytest.mark.parametrize("kind", ["<f4", "<f2", ">f4", "<f8", "fortran", "tensor"])
def test_features_that_torch_pickled_as_an_array_are_read_bit_for_bit(job, root, kind):
    wanted = vectors(12).astype(kind if kind[0] in "<>" else np.float32)
    values = {
        "fortran": np.asfortranarray(wanted),
        "tensor": torch.from_numpy(wanted.copy()) if kind == "tensor" else 0,
    }
    as_pt(trident(job, "s1", corners(), vectors(12)), values=values.get(kind, wanted))
    done = only(bring(job, root, "trident", mpp=0.499))
    assert done.key == "toynet@127.7um-0.499"
    found = Store(root).features(done.key, "s1", patches=done.patches)
    assert (found == wanted.astype(np.float32 if wanted.itemsize > 4 else wanted.dtype)).all()
    again = bring(job / "20x_256px_0px_overlap" / "features_toynet", root, "trident")
    assert not only(again).written  # pointed at the folder of one encoder


def test_an_encoder_that_only_a_folder_names_is_declared(job, root):
    as_pt(trident(job, "s1", corners(), vectors(12)), config=False)
    assert "its folder is named 'toynet'" in refusal(bring(job, root, "trident", mpp=0.5))
    assert only(bring(job, root, "trident", mpp=0.5, encoder="toynet")).key == "toynet@128um-0.5"


def test_hdf5_goes_before_pt_and_several_encoders_come_each_under_its_key(job, root):
    kept = trident(job, "s1", corners(), vectors(12))
    torch.save(vectors(12, seed=9), kept.with_suffix(".pt"))
    as_pt(trident(job, "s1", corners(), vectors(12, seed=1), encoder="second"))
    report = bring(job, root, "trident", mpp=0.5)
    assert [(one.key, one.file) for one in report.done] == [
        ("toynet@128um-0.5", "s1.h5"),
        ("second@128um-0.5", "s1.pt"),
    ]


@pytest.mark.parametrize("harm", ["object", "array", "integers", "cut", "no patches", "rows"])
def test_a_pt_that_is_no_array_of_features_is_refused_and_never_run(job, root, tmp_path, harm):
    mark = tmp_path / "ran"
    values = {"object": Harmful(mark), "array": np.array([Harmful(mark)], dtype=object), "rows": vectors(11)}
    values |= {"integers": np.arange(72).reshape(12, 6)}
    path = as_pt(trident(job, "s1", corners(), vectors(12)), values=values.get(harm, vectors(12)))
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:200])
    if harm == "no patches":
        shutil.rmtree(path.parent.parent / "patches")
    why = refusal(bring(job, root, "trident", mpp=0.5))
    wanted = {
        "object": "pickled objects, which can run code: posix.system",
        "array": "pickled objects, which can run code: posix.system",
        "integers": "an array of i8, which are no floating-point numbers",
        "cut": "cannot be read as a plain tensor or array",
        "no patches": "s1_patches.h5 is missing",
        "rows": "11 rows of features, 12 of coordinates",
    }
    assert wanted[harm] in why
    assert not [word for word in ADVICE if word in why]
    assert not mark.exists()
    assert not root.exists()


def test_clam_takes_arrays_in_pt_too(tmp_path, root):
    path = clam(tmp_path, "s1", corners(), vectors(12), form="pt")
    torch.save(vectors(12), path)
    assert only(bring(tmp_path, root, "clam", mpp=0.5, encoder="toynet")).shape == (12, 6)


def test_vectors_of_whole_slides_are_left_and_that_is_said(job, root):
    trident(job, "s1", corners(), vectors(12))
    folder = job / "20x_256px_0px_overlap" / "slide_features_titan"
    folder.mkdir()
    report = bring(job, root, "trident", mpp=0.5)
    assert report.skipped[0][0] == "20x_256px_0px_overlap/slide_features_titan"
    assert "one vector of a whole slide each" in report.skipped[0][1]


# --- TRIDENT's um/px


def test_the_job_says_um_per_pixel_and_a_declared_one_must_agree(job, root, tmp_path):
    trident(job, "s1", corners(), vectors(12))
    state(job, "s1")
    state(job, "s10", mpp=0.25)  # another slide, whose name begins alike
    done = only(bring(job, root, "trident"))
    assert (done.mpp, done.mpp_source) == (0.499, "TRIDENT file")
    assert "declared 0.25, TRIDENT file 0.499" in refusal(bring(job, tmp_path / "b", "trident", mpp=0.25))
    assert only(bring(job, tmp_path / "c", "trident", mpp=0.5)).mpp_source == "declared"
    one = job / "20x_256px_0px_overlap" / "features_toynet" / "s1.h5"
    assert only(bring(one, tmp_path / "d", "trident")).mpp == 0.499


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([{"mpp": None}], ""),
        ([{"size": (4440, 5934), "mpp": 0.25}], "is of an image of another size"),
        ([{"mpp": 352.8}], "has 352.8 um/px, which no slide has"),
        ([{"mpp": 0.25}, {"digest": "0" * 12}], "several um/px of this slide, and none is taken"),
    ],
)
def test_a_state_that_cannot_be_meant_is_said_and_not_taken(job, root, states, said):
    trident(job, "s1", corners(), vectors(12))
    for one in states:
        state(job, "s1", **one)
    assert "TRIDENT does not say um/px" in refusal(bring(job, root, "trident"))
    assert said in " ".join(only(bring(job, root, "trident", mpp=0.5)).notes)


def test_of_two_slides_of_a_name_the_size_tells_and_a_broken_state_is_named(job, root):
    trident(job, "s1", corners(), vectors(12))
    state(job, "s1", digest="0" * 12, mpp=0.25, size=(4440, 5934))
    other = state(job, "s1")
    assert only(bring(job, root, "trident")).mpp == 0.499
    other.write_text('{"slide": 1}')
    assert "is no state file of TRIDENT" in refusal(bring(job, root, "trident"))


@pytest.mark.parametrize(
    ("target", "written", "read"),
    [(12.5, 409.0, 410.0), (12, 426, 427.0), (15, 341, 341.0), (40, 128, 128.0), (12.5, 410.0, 410.0)],
)
def test_the_side_is_what_trident_reads_not_what_it_cuts_down(job, root, target, written, read):
    trident(job, "s1", corners(), vectors(12), target_magnification=target, patch_size_level0=written)
    done = only(bring(job, root, "trident", mpp=0.5))
    assert Store(root).header(done.key, "s1", patches=done.patches).fov_um == read * 0.5
    centers = Store(root).patches("s1", patches=done.patches).center_px
    np.testing.assert_array_equal(centers[0], [768 + read / 2, read / 2])
    assert bool([note for note in done.notes if f"{read:g} px are taken" in note]) == (written != read)


# --- tools without an importer


def slide2vec(folder):
    """What slide2vec 7.1 leaves of one slide."""
    for name in ("tiles", "tile_embeddings"):
        (folder / name).mkdir(parents=True)
    sidecar = {"artifact_type": "tile_embeddings", "encoder_name": "toynet", "sample_id": "s1", "format": "pt"}
    (folder / "tile_embeddings" / "s1.meta.json").write_text(json.dumps(sidecar))
    torch.save(torch.ones(12, 6), folder / "tile_embeddings" / "s1.pt")
    hs2p(folder)
    (folder / "embedding_request.json").write_text(json.dumps({"model": {}, "preprocessing": {}, "execution": {}}))
    (folder / "process_list.csv").write_text("sample_id,annotation\ns1,tissue\n")
    return folder


def hs2p(folder):
    """Coordinates of one slide as hs2p 6.1 writes them."""
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tiles" / "s1.coordinates.npz", x=np.arange(3), y=np.arange(3))
    meta = {"tiling": {"n_tiles": 3}, "provenance": {"sample_id": "s1"}, "slide": {"base_spacing_um": 0.5}}
    (folder / "tiles" / "s1.coordinates.meta.json").write_text(json.dumps(meta))
    return folder


def lazyslide(folder, *, version=3):
    """A SpatialData zarr as wsidata 0.12 writes it (zarr 3), or older ones did (zarr 2)."""
    group = zarr.open_group(folder / "s1.zarr", mode="w", zarr_format=version)
    group.attrs.update({"slide_properties": {"mpp": 0.5}, "tile_spec": {}, "spatialdata_attrs": {"version": "0.2"}})
    for name in ("shapes", "tables", "images"):
        group.create_group(name)
    return folder / "s1.zarr"


def slideflow(folder):
    folder.mkdir()
    torch.save(torch.ones(3, 6), folder / "s1.pt")
    np.savez(folder / "s1.index.npz", np.zeros((3, 2)))
    (folder / "bags_config.json").write_text("{}")
    return folder


def eva(folder):
    folder.mkdir()
    (folder / "manifest.csv").write_text("origin,embeddings,target,split\na.png,0.pt,1,train\n")
    return folder


def spared(folder):
    import anndata

    folder.mkdir()
    adata = anndata.AnnData(np.ones((3, 2), np.float32))
    adata.layers["c_d_log1p"] = np.ones((3, 2), np.float32)
    adata.write_h5ad(folder / "adata.h5ad")
    return folder


def lazyslide_2(folder):
    return lazyslide(folder, version=2)


TOOLS = {
    "slide2vec": slide2vec, "hs2p": hs2p, "LazySlide": lazyslide, "LazySlide ": lazyslide_2,
    "slideflow": slideflow, "eva": eva, "spared": spared,
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_every_door_names_the_tool_whose_output_it_is_pointed_at(tmp_path, tool):
    place = TOOLS[tool](tmp_path / "output")
    wanted = f"is the output of {tool.strip()} ("
    for words in (
        ("import", place, "--format", "trident", "--store", tmp_path / "s"),
        ("import", place, "--format", "clam", "--store", tmp_path / "s", "--encoder", "x", "--mpp", "0.5"),
        ("featurize", place, "--store", tmp_path / "s"),
        ("status", place),
    ):
        code, _, err = run_command(*words)
        err = " ".join(err.split())
        assert (code, wanted in err) == (2, True), (words, err)
        assert "There is no importer for it" in err
        assert not [word for word in ADVICE if word in err]
    assert not (tmp_path / "s").exists()


def test_single_files_of_other_tools_are_named_too(tmp_path):
    folder = slide2vec(tmp_path / "output")
    h5 = stamp(tmp_path / "in", "s1", np.array([[256.486, 0], [512.972, 0]]), vectors(2))
    for path, wanted in (
        (folder / "tile_embeddings" / "s1.pt", "slide2vec"),
        (folder / "tiles" / "s1.coordinates.npz", "hs2p"),
        (h5, "STAMP"),
    ):
        assert tool_output(path).tool == wanted
        for words in (("featurize", path, "--store", tmp_path / "s"), ("status", path)):
            code, _, err = run_command(*words)
            assert (code, f"is the output of {wanted} (" in " ".join(err.split())) == (2, True), err


def test_output_with_an_importer_is_named_with_its_command(tmp_path):
    trident(tmp_path / "job", "s1", corners(), vectors(12))
    path = stamp(tmp_path / "in", "s1", np.array([[256.486, 0], [512.972, 0]]), vectors(2))
    from PIL import Image

    Image.new("RGB", (64, 64)).save(path.with_suffix(".jpg"))  # STAMP's picture of what it rejected is no slide
    for place, format in ((tmp_path / "job", "trident"), (tmp_path / "in", "stamp"), (path.parent, "stamp")):
        code, _, err = run_command("featurize", place, "--store", tmp_path / "s", "--mpp", "0.5")
        assert (code, f"tissuary import {place} --format {format}" in " ".join(err.split())) == (2, True), err


def test_slides_beside_the_output_of_another_tool_are_taken(tmp_path):
    write_cohort(tmp_path / "c", patients=1, slides_per_patient=1, spots_per_side=3, n_genes=12)
    folder = tmp_path / "c" / "images"
    lazyslide(folder)  # its default place
    hs2p(folder)
    trident(folder / "job", "s1", corners(), vectors(12))
    assert [one.slide_id for one in load_cohort(folder).samples] == ["P01-S1"]


def test_what_is_nothing_of_any_tool_is_not_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "zarr.json").write_text("[1]")
    (tmp_path / "a" / "s1.meta.json").write_text("not JSON")
    (tmp_path / "a" / "manifest.csv").write_bytes(b"\xff\xfe")
    (tmp_path / "a" / "x.h5").write_bytes(b"no HDF5")
    assert tool_output(tmp_path / "a") is None
    assert tool_output(tmp_path / "none") is None


@pytest.mark.parametrize("format", ["slide2vec", "hs2p", "lazyslide", "wsidata"])
def test_a_format_without_importer_is_known_by_name(tmp_path, format):
    code, _, err = run_command("import", tmp_path, "--format", format, "--store", tmp_path / "s")
    assert (code, "There is no importer for it yet" in " ".join(err.split())) == (2, True)


def test_samples_that_the_tools_wrote_are_recognised(real_data, tmp_path):
    foreign = real_data / "foreign"
    if not (foreign / "slide2vec-2026-11").is_dir():
        pytest.skip(f"no samples of 2026-11 in {foreign}")
    for place, tool in (
        ("slide2vec-2026-11", "slide2vec"),
        ("slide2vec-2026-11/s2v", "slide2vec"),
        ("slide2vec-2026-11/s2v/b", "slide2vec"),
        ("slide2vec-2026-11/s2v/h/hierarchical_embeddings", "slide2vec"),
        ("hs2p-2026-11", "hs2p"),
        ("lazyslide-2026-11", "LazySlide"),
        ("lazyslide-2026-11/CMU-1-Small-Region.zarr", "LazySlide"),
        ("trident-2026-11/tri_a", "TRIDENT"),
        ("stamp-2026-11", "STAMP"),
        ("hest-2026-11/patches", "HEST"),
        ("clam/patches_dir", "CLAM"),
    ):
        assert tool_output(foreign / place).tool == tool
    source = foreign / "trident-2026-11" / "tri_c"
    h5 = only(bring(source, tmp_path / "h5", "trident"))
    assert (h5.mpp, h5.mpp_source) == (0.499, "TRIDENT file")
    copy = shutil.copytree(source, tmp_path / "tri_c")
    as_pt(next(copy.rglob("features_*/*.h5")), config=False)
    pt = only(bring(copy, tmp_path / "pt", "trident"))
    assert pt.key == h5.key
    both = [path for path in contents(tmp_path / "h5") if path.parts[0] == "patches"]
    assert all((tmp_path / "pt" / path).read_bytes() == (tmp_path / "h5" / path).read_bytes() for path in both)


# --- errors of libraries


def test_no_advice_to_switch_a_protection_off_comes_through(tmp_path):
    torch.save(np.array([1, None], dtype=object), tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([1, None], dtype=object), allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(b"garbage")
    raised = []
    for read, name in ((torch.load, "x.pt"), (np.load, "x.npy"), (np.load, "y.npy")):
        with pytest.raises((ValueError, pickle.UnpicklingError)) as caught:
            read(tmp_path / name)
        raised.append(caught.value)
    text = (
        "Loading x requires you to execute the configuration file in that repo; set the option trust_remote_code=True"
    )
    raised.append(ValueError(text))
    for error in raised:
        assert any(word in str(error) for word in ADVICE)
        assert not [word for text in (plain_reason(error), said(error)) for word in ADVICE if word in text]
    assert plain_reason(KeyError()) == "KeyError"
    assert plain_reason(OSError("first\nsecond")) == "first"


def test_a_damaged_cell_is_trained_again_without_numpys_advice(tmp_path, caplog):
    cells = TrialCache(tmp_path)
    cells._path({"a": 1}).write_bytes(b"garbage")
    caplog.set_level(logging.WARNING)
    assert cells.load({"a": 1}) is None
    assert "it holds pickled objects, which can run code): this cell is trained again" in caplog.text
    assert "allow_pickle" not in caplog.text


def test_what_nobody_foresaw_of_a_slide_gives_no_such_advice_either(tmp_path):
    np.save(tmp_path / "x.npy", np.array([1, None], dtype=object), allow_pickle=True)
    failed = []
    with isolated(Sample("s1", "P1", tmp_path / "s1.svs"), failed):
        np.load(tmp_path / "x.npy")
    assert str(failed[0][1]) == "slide s1: ValueError: it holds pickled objects, which can run code"
