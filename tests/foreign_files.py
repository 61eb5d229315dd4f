"""Files as TRIDENT, CLAM, STAMP, HEST and TRIPLEX write them, small and made up, attribute by attribute."""

import json

import h5py
import numpy as np

from tissuary.store.exchange.foreign import Declared
from tissuary.store.exchange.importing import import_files
from tissuary.store.exchange.registry import importer_named


def bring(path, root, format, *, coords=None, look=lambda _: None, **declared):
    """Import `path` with what is declared; the report."""
    return import_files(path, root, importer_named(format), declared=Declared(**declared), coords=coords, look=look)


def only(report):
    """The one file that was imported, nothing having failed."""
    assert report.failed == ()
    assert len(report.done) == 1
    return report.done[0]


def refusal(report):
    """Why the one file failed, nothing having been imported."""
    assert report.done == ()
    assert len(report.failed) == 1
    return report.failed[0][1]


def corners(columns=4, rows=3, *, step=256, start=(768, 0)):
    """(n, 2) int64 corners of a grid, y outer."""
    y, x = np.divmod(np.arange(columns * rows), columns)
    return np.stack([start[0] + step * x, start[1] + step * y], axis=1).astype(np.int64)


def vectors(n, dim=6, *, seed=0, dtype=np.float32):
    """(n, dim) features of which hardly one is a float16 number."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(dtype)


def growing(file, name, values, *, chunk=1):
    """A dataset as these tools make it: growing by rows, `chunk` rows a chunk."""
    shape = values.shape
    chunks = (chunk, *shape[1:]) if all(shape[1:]) else None
    return file.create_dataset(name, data=values, maxshape=(None, *shape[1:]), chunks=chunks or True)


def trident(job, slide_id, coords, features=None, *, encoder="toynet", folder="20x_256px_0px_overlap", **changed):
    """One features file and its patches file, as in TRIDENT 0.3.0; `changed` attributes of coords, None drops one."""
    attributes = {
        "patch_size": 256,
        "patch_size_level0": 256,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 0,
        "name": slide_id,
        "savetodir": "/somebody/else/job",
        "level0_width": 2220,
        "level0_height": 2967,
    } | changed
    attributes = {name: value for name, value in attributes.items() if value is not None}
    paths = [job / folder / "patches" / f"{slide_id}_patches.h5"]
    if features is not None:
        paths.append(job / folder / f"features_{encoder}" / f"{slide_id}.h5")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            growing(file, "coords", coords).attrs.update(attributes)
            if path is not paths[0]:
                growing(file, "features", features).attrs.update(
                    {"name": slide_id, "savetodir": "/somebody/else/job", "encoder": encoder}
                )
    return paths[-1]


def clam(root, slide_id, coords, features, *, patch_size=256, patch_level=0, downsample=1.0, form="h5"):
    """Patches file and features as CLAM writes them: attributes on the former only; form "h5", "pt" or "both"."""
    place = root / "patches_dir" / "patches" / f"{slide_id}.h5"
    place.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(place, "w") as file:
        growing(file, "coords", np.asarray(coords, dtype=np.int64)).attrs.update(
            {
                "patch_size": patch_size,
                "patch_level": patch_level,
                "downsample": np.array([downsample, downsample]),
                "downsampled_level_dim": np.array([4000, 3000]) // int(downsample),
                "level_dim": np.array([4000, 3000]) // int(downsample),
                "name": slide_id,
                "save_path": "/somebody/else/patches",
            }
        )
    path = root / "feats" / "h5_files" / f"{slide_id}.h5"
    if form in ("h5", "both"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            growing(file, "features", features, chunk=32)
            growing(file, "coords", np.asarray(coords, dtype=np.int32), chunk=32)
    if form in ("pt", "both"):
        import torch

        path = root / "feats" / "pt_files" / f"{slide_id}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.from_numpy(features.copy()), path)
    return path


def stamp(root, slide_id, corners_um, feats, *, folder="toynet-49b04e14", drop=(), **changed):
    """One file as STAMP 2.5 writes it: float16, microns, attributes on the root, less those in `drop`."""
    attributes = {
        "stamp_version": "2.5.0",
        "extractor": "toynet",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "code_hash": "49b04e14",
        "feat_type": "tile",
    } | changed
    path = root / folder / f"{slide_id}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update({name: value for name, value in attributes.items() if name not in drop})
        file["feats"] = np.asarray(feats, dtype=np.float16)
        if corners_um is not None:
            file["coords"] = np.asarray(corners_um, dtype=np.float32)
    return path


def hest_patches(path, coords, barcode, *, on=("img", "coords"), side=162, pixel_size=0.69):
    """Patches as hestcore writes them: barcodes (n, 1) of variable length, scale on `img`, `coords` or both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(coords)
    with h5py.File(path, "w") as file:
        growing(file, "img", np.zeros((n, 224, 224, 3), np.uint8))
        growing(file, "coords", np.asarray(coords, dtype=np.int64))
        names = np.array(barcode, dtype=object).reshape(n, 1)
        file.create_dataset("barcode", data=names, dtype=h5py.string_dtype("utf-8"), maxshape=(None, 1), chunks=(1, 1))
        for name in on:
            file[name].attrs.update(
                {
                    "patch_size_src": side,
                    "patch_size_target": 224,
                    "downsample": 0.5 / pixel_size,
                    "pixel_size": pixel_size,
                }
            )
    return path


def hest_embeddings(path, coords, barcode, embeddings):
    """Embeddings as HEST-bench writes them: barcodes (n, 1) of fixed bytes, no attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        growing(file, "embeddings", embeddings)
        growing(file, "barcodes", np.array(barcode, dtype="S").reshape(-1, 1))
        growing(file, "coords", np.asarray(coords, dtype=np.int64))
    return path


def record_of(header):
    """What is on record of an import, as JSON would give it back."""
    return json.loads(json.dumps(header.record))["imported"]


def hest_names(columns=4, rows=3):
    """Barcodes `<column>x<row>` of the spots at `corners(columns, rows)`, as HER2ST has them."""
    y, x = np.divmod(np.arange(columns * rows), columns)
    return [f"{c}x{r}" for c, r in zip(x, y, strict=True)]


def triplex(root, slide_id, values, *, barcodes=None, model="uni_v1"):
    """Embeddings as TRIPLEX writes them: `global` (n, dim) or `neighbor` (n, 25, dim) with its mask."""
    kind = "global" if values.ndim == 2 else "neighbor"
    path = root / "emb" / kind / model / f"{slide_id}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        growing(file, "embeddings", values)
        growing(file, "coords", np.zeros((len(values), 2), np.int64))
        if barcodes is not None:
            growing(file, "barcodes", np.asarray(barcodes))
        if kind == "neighbor":
            mask = np.ones(values.shape[:2], np.float32)
            mask[0, :5] = 0
            growing(file, "mask_tb", mask)
    return path


def run_command(*words):
    """Run `tissuary WORDS` in this process: exit code, stdout, stderr."""
    import contextlib
    import io
    import sys

    from tissuary.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tissuary", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as left:
        return left.code or 0, out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), err.getvalue()


def contents(root):
    """Bytes of every file of a store, but for the catalogue, which rebuilds itself."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.h5*")) if path.is_file()}
