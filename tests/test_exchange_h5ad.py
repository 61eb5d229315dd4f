"""AnnData out of a store, as scanpy reads it; and a store that tissuary made through every format and back."""

import json

import anndata
import h5py
import numpy as np
import pytest

from tissuary.store import Store
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.synthetic.cohort import write_cohort
from tissuary.tests.foreign_files import bring, contents, corners, only, run_command, trident, vectors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store that tissuary itself made, of spots and of a grid, in two views."""
    base = tmp_path_factory.mktemp("made")
    cohort = write_cohort(base / "cohort", patients=2, slides_per_patient=1, spots_per_side=3)
    code, _, err = run_command(
        "featurize", cohort, "--store", base / "store", "--views", "20x", "--views", "5x", "--patches", "both"
    )
    assert code == 0, err
    return base / "store"


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("h5ad")
    code, stdout, err = run_command("export", made, "--format", "h5ad", "--out", out, "--json")
    assert code == 0, err
    report = json.loads(stdout)
    assert (report["tool"], report["patches"], report["failed"]) == ("AnnData", "spots", [])
    assert "other patch sets stay: grid-" in err
    return out


def test_anndata_holds_counts_centres_features_and_where_they_are_from(made, exported):
    store = Store(made)
    for slide_id in store.slide_ids:
        adata = anndata.read_h5ad(exported / f"{slide_id}.h5ad")
        place, slide = store.patches(slide_id), store.slide(slide_id)
        counts = read_expression(expression_path(made, slide_id))
        assert adata.obs_names.tolist() == place.barcode.tolist()
        assert adata.var_names.tolist() == counts.genes.tolist()
        assert (counts.counts != adata.X).nnz == 0
        np.testing.assert_array_equal(adata.obsm["spatial"], place.center_px)
        np.testing.assert_array_equal(adata.obs[["array_row", "array_col"]].to_numpy(), place.array)
        facts = adata.uns["tissuary"]
        assert (facts["slide_id"], facts["patient_id"], facts["mpp"]) == (slide_id, slide.patient_id, slide.mpp)
        assert facts["coordinates"]["bounds_px"].tolist() == [0, 0, slide.width_px, slide.height_px]
        assert "from the corner of the whole image" in facts["coordinates"]["frame"]
        assert set(adata.obsm) == {"spatial", "X_stain-texture@20x", "X_stain-texture@5x"}
        for key in ("stain-texture@20x", "stain-texture@5x"):
            values = store.features(key, slide_id)
            assert adata.obsm[f"X_{key}"].dtype == values.dtype
            assert adata.obsm[f"X_{key}"].tobytes() == values.tobytes()
            told, header = facts["features"][f"X_{key}"], store.header(key, slide_id)
            assert (told["key"], told["fingerprint"]) == (key, header.fingerprint)
            assert json.loads(told["record"]) == json.loads(json.dumps(header.record))
            assert (told["fov_um"], told["mpp"]) == (header.fov_um, header.mpp)


def test_pictures_are_where_scanpy_looks(made, exported):
    store = Store(made)
    slide_id = store.slide_ids[0]
    adata = anndata.read_h5ad(exported / f"{slide_id}.h5ad")
    spatial, slide = adata.uns["spatial"][slide_id], store.slide(slide_id)
    picture, factors = spatial["images"]["hires"], spatial["scalefactors"]
    with h5py.File(made / "slides" / f"{slide_id}.h5") as file:
        np.testing.assert_array_equal(picture, file["thumbnail"][()])
    on_picture = adata.obsm["spatial"] * factors["tissue_hires_scalef"]
    assert (on_picture < [picture.shape[1] + 1, picture.shape[0] + 1]).all()
    assert factors["tissue_hires_scalef"] * slide.width_px == pytest.approx(picture.shape[1])
    assert factors["spot_diameter_fullres"] == pytest.approx(112 / slide.mpp)


def test_scanpy_finds_neighbours_in_the_features(made, exported):
    import scanpy

    slide_id = Store(made).slide_ids[0]
    adata = scanpy.read_h5ad(exported / f"{slide_id}.h5ad")
    # the default method compiles for a minute; which neighbours are found is the same
    scanpy.pp.neighbors(adata, n_neighbors=4, use_rep="X_stain-texture@20x", method="gauss", transformer="sklearn")
    assert adata.obsp["distances"].shape == (len(adata), len(adata))
    values = np.asarray(adata.obsm["X_stain-texture@20x"], dtype=np.float64)
    apart = np.linalg.norm(values[0] - values, axis=1)
    nearest = set(np.argsort(apart)[1:4].tolist())
    assert set(adata.obsp["distances"][0].nonzero()[1].tolist()) == nearest
    scanpy.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    assert adata.obs["total_counts"].to_numpy() == pytest.approx(np.asarray(adata.X.sum(axis=1)).ravel())


def test_one_key_of_an_encoder_is_named_by_the_encoder(make_store, tmp_path):
    store = make_store({"a1": ("A", 9)})
    code, _, err = run_command("export", store.path, "--format", "h5ad", "--out", tmp_path / "out")
    assert code == 0, err
    adata = anndata.read_h5ad(tmp_path / "out" / "a1.h5ad")
    assert list(adata.obsm) == ["X_toy", "spatial"]
    assert adata.obsm["X_toy"].tobytes() == store.features("toy@20x", "a1").tobytes()
    before = (tmp_path / "out" / "a1.h5ad").read_bytes()
    code, _, err = run_command("export", store.path, "--format", "h5ad", "--out", tmp_path / "out")
    assert (code, "is there already and was kept" in err) == (0, True)
    assert (tmp_path / "out" / "a1.h5ad").read_bytes() == before


def test_slides_without_counts_pictures_or_features_are_files_too(tmp_path):
    trident(tmp_path / "in", "s1", corners(), vectors(12, dtype=np.float32))
    trident(tmp_path / "in", "bare", corners())
    bring(tmp_path / "in", tmp_path / "store", "trident", mpp=0.499)
    code, _, err = run_command("export", tmp_path / "store", "--format", "h5ad", "--out", tmp_path / "out")
    assert code == 0, err
    adata = anndata.read_h5ad(tmp_path / "out" / "s1.h5ad")
    assert (adata.shape, adata.X, adata.obsm["X_toynet"].dtype) == ((12, 0), None, np.float32)
    assert adata.uns["spatial"]["s1"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(256)
    bare = anndata.read_h5ad(tmp_path / "out" / "bare.h5ad")
    assert list(bare.obsm) == ["spatial"]
    np.testing.assert_array_equal(bare.obsm["spatial"], corners() + 128.0)


@pytest.mark.parametrize("patches", ["spots", "grid"])
@pytest.mark.parametrize("format", ["trident", "stamp"])
def test_what_tissuary_made_comes_back_through_other_tools_files(made, tmp_path, format, patches):
    before = Store(made)
    name = next(found for found in before.patch_sets if found.startswith(patches))
    code, _, err = run_command("export", made, "--format", format, "--patches", name, "--out", tmp_path / "out")
    assert code == 0, err
    code, _, err = run_command("import", tmp_path / "out", "--format", format, "--store", tmp_path / "b")
    assert code == 0, err
    after = Store(tmp_path / "b")
    assert (after.slide_ids, after.patch_sets) == (before.slide_ids, (name,))
    assert after.keys(name) == ("stain-texture@20x", "stain-texture@5x")
    for slide_id in before.slide_ids:
        old, new = before.patches(slide_id, patches=name), after.patches(slide_id, patches=name)
        assert new.digest == old.digest  # centres and barcodes, bit for bit
        np.testing.assert_array_equal(new.array, old.array)
        assert after.slide(slide_id).mpp == before.slide(slide_id).mpp
        for key in after.keys(name):
            values = before.features(key, slide_id, patches=name)
            found = after.features(key, slide_id, patches=name)
            assert (found.dtype, found.tobytes()) == (values.dtype, values.tobytes())
            was, now = (store.header(key, slide_id, patches=name) for store in (before, after))
            assert (now.fov_um, now.mpp, now.slide_mpp) == (
                pytest.approx(was.fov_um),
                pytest.approx(was.mpp),
                was.slide_mpp,
            )
            assert now.fingerprint.startswith("declared:stain-texture:")
        assert after.slide(slide_id).patient_id == f"unknown:{slide_id}"  # neither format has a place for it
    before_bytes = contents(tmp_path / "b")
    code, _, err = run_command("import", tmp_path / "out", "--format", format, "--store", tmp_path / "b")
    assert (code, contents(tmp_path / "b") == before_bytes) == (0, True)


def test_patients_come_from_a_table(made, tmp_path):
    run_command("export", made, "--format", "trident", "--out", tmp_path / "out")
    slides = Store(made).slide_ids
    table = tmp_path / "patients.csv"
    table.write_text("slide_id,patient_id\n" + "".join(f"{s},P-{s[:3]}\n" for s in slides) + "elsewhere,P9\n")
    said = ("import", tmp_path / "out", "--format", "trident", "--patients", table)
    code, stdout, err = run_command(*said, "--store", tmp_path / "b", "--json")
    assert code == 0, err
    assert {d["slide_id"]: d["patient_id"] for d in json.loads(stdout)["done"]} == {s: f"P-{s[:3]}" for s in slides}
    assert "--patients names slides that were not imported: elsewhere" in err
    store = Store(tmp_path / "b")
    assert [store.slide(s).patient_id for s in slides] == [f"P-{s[:3]}" for s in slides]
    for text, match in (
        ("slide,patient\ns1,P1\n", "no column 'slide_id'"),
        ("slide_id,patient\ns1,P1\n", "no column 'patient_id'"),
        ("slide_id,patient_id,mpp\ns1,P1,half\n", "could not convert string to float: 'half'"),
        ("slide_id,patient_id\ns1,P1\ns1,P2\n", "slide s1 has both P1 and P2"),
    ):
        table.write_text(text)
        code, _, err = run_command(*said, "--store", tmp_path / "c")
        assert (code, match in err) == (2, True), err
    assert not (tmp_path / "c").exists()


def test_import_beside_features_of_tissuary_itself(made, tmp_path):
    """A grid of another tool on slides that tissuary featurized: their scale is known, their files stay."""
    import shutil

    root = tmp_path / "store"
    shutil.copytree(made, root)
    slide = Store(root).slide(Store(root).slide_ids[0])
    before = contents(root)
    size = {"level0_width": slide.width_px, "level0_height": slide.height_px}
    trident(tmp_path / "in", slide.slide_id, corners(2, 2, start=(0, 0)), vectors(4), **size)
    done = only(bring(tmp_path / "in", root, "trident"))
    assert (done.mpp, done.mpp_source, done.patient_id) == (slide.mpp, "store", slide.patient_id)
    after = contents(root)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    code, _, err = run_command("verify", root)
    assert code == 0, err


@pytest.mark.usefixtures("real_data")
def test_a_real_section_through_every_format(real_data, tmp_path):
    root = tmp_path / "store"
    code, _, err = run_command(
        "featurize", real_data / "slides" / "CMU-1-Small-Region.svs", "--store", root, "--patches", "grid",
        "--views", "5x",
    )  # fmt: skip
    assert code == 0, err
    before = Store(root)
    name, key, slide_id = before.patch_sets[0], "stain-texture@5x", "CMU-1-Small-Region"
    values = before.features(key, slide_id, patches=name)
    for format in ("trident", "stamp", "h5ad"):
        code, _, err = run_command("export", root, "--format", format, "--out", tmp_path / format)
        assert code == 0, err
    adata = anndata.read_h5ad(tmp_path / "h5ad" / f"{slide_id}.h5ad")
    assert adata.obsm["X_stain-texture"].tobytes() == values.tobytes()
    for format in ("trident", "stamp"):
        code, _, err = run_command("import", tmp_path / format, "--format", format, "--store", tmp_path / f"{format}.b")
        assert code == 0, err
        after = Store(tmp_path / f"{format}.b")
        assert after.features(key, slide_id, patches=name).tobytes() == values.tobytes()
        assert after.patches(slide_id, patches=name).digest == before.patches(slide_id, patches=name).digest
        assert after.slide(slide_id).mpp == 0.499
