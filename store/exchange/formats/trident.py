"""TRIDENT: `<job>/<mag>x_<px>px_<overlap>px_overlap/{patches/<slide>_patches.h5, features_<encoder>/<slide>.h5}`.

Read at TRIDENT a91fa84. Coordinates are int64 corners at level 0. The magnification is a label (0.69 um/px is called
10x), so that scale comes from `patch_size_level0` and the slide's real um/px only: of jobs since 0.3 that of
`<job>/wsi_states/<slide>__<hash>.json`. Features may be `features_<encoder>/<slide>.pt` instead (`saveas="pt"`).
"""

from __future__ import annotations

import glob
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import Floats
from ...errors import StoreError
from ...files.atomic import atomic_path
from ...scale import is_plausible
from ..exporting import ExportColumn, ExportSlide, kept, mark_of, overlap_share, write_extras
from ..foreign import MARK, ExternalSlide, FileToImport, mark_in, plain_number
from ..hdf import extras_in, number, open_foreign, points_of, text, vectors_of
from .clam import legacy_side
from .torch_file import read_torch_file

TOOL = "TRIDENT"

_FEATURES = "features_"

_LABELS = ((0.16, 80.0), (0.2, 60.0), (0.3, 40.0), (0.6, 20.0), (1.2, 10.0), (2.4, 5.0))
"""um/px below which TRIDENT calls level 0 so."""

_NUMBERS = (
    "patch_size",
    "patch_size_level0",
    "level0_magnification",
    "target_magnification",
    "overlap",
    "level0_width",
    "level0_height",
)


def find_trident(path: Path) -> tuple[FileToImport, ...]:
    """Features below a job's folder, and patches of slides that have no features; or the one file given.

    Features in `.pt` are taken where there is no `.h5` of the same slide and encoder.
    """
    if path.is_file():
        return (_found(path),)
    files = sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    features = [p for p in files if p.parent.name.startswith(_FEATURES)]
    have = {p.with_suffix("") for p in features}
    features += sorted(p for p in path.rglob(f"{_FEATURES}*/*.pt") if p.with_suffix("") not in have)
    if path.name.startswith(_FEATURES):  # the folder of one encoder
        features += sorted(p for p in path.glob("*.pt") if p.with_suffix("") not in have)
    covered = {(p.parent.parent, p.stem) for p in features}
    patches = [p for p in files if p.parent.name == "patches" and (p.parent.parent, _slide_id(p)) not in covered]
    return tuple(_found(p) for p in features + patches or [p for p in files if p.parent == path])


def slide_vectors(path: Path) -> tuple[tuple[str, str], ...]:
    """Folders of slide encoders below a job, and why they are left."""
    folders = sorted(p for p in path.rglob("slide_features_*") if p.is_dir()) if path.is_dir() else []
    why = "one vector of a whole slide each: a store holds features of patches"
    return tuple((folder.relative_to(path).as_posix(), why) for folder in folders)


def _found(path: Path) -> FileToImport:
    slide_id = _slide_id(path)
    beside = path.parent.parent / "patches" / f"{slide_id}_patches.h5"
    return FileToImport(slide_id, path, beside if path.suffix == ".pt" else None)


def _slide_id(path: Path) -> str:
    return path.stem if path.parent.name.startswith(_FEATURES) else path.stem.removesuffix("_patches")


def read_trident(found: FileToImport) -> ExternalSlide:
    """Read a features file, or a patches file.

    Raises
    ------
    StoreError
        If it holds one vector for a whole slide, rows of features and coordinates differ in number, or a `.pt` has no
        patches file.
    """
    features = encoder = None
    if found.partner is not None:
        features, encoder = _read_pt(found)
    place = found.partner or found.path
    with open_foreign(place) as file:
        corners = points_of(file)
        attributes = file["coords"].attrs
        numbers = {name: value for name in _NUMBERS if (value := number(attributes, name)) is not None}
        mark = mark_in(attributes)
        if features is None and "features" in file:
            features = vectors_of(file, "features")
            encoder = text(file["features"].attrs, "encoder")
        extras = extras_in(file)
        stated = numbers.get("patch_size_level0") or legacy_side(attributes)
    if features is not None and len(features) != len(corners):
        msg = f"{found.path}: {len(features)} rows of features, {len(corners)} of coordinates"
        raise StoreError(msg)
    patch_px = numbers.get("patch_size")
    side, notes = (stated, ()) if mark else _side_read(stated, numbers)
    if mark:
        patch_px = mark.fov_um / mark.mpp
        if features is not None and mark.dtype == "float16":  # exports are float32, as this tool's files are
            half = features.astype(np.float16)
            features = half if np.array_equal(half, features) else features
    size = (numbers.get("level0_width"), numbers.get("level0_height"))
    size_px = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    mpp, doubts = (mark.slide_mpp, ()) if mark else _state_mpp(found, size_px)
    folder = found.path.parent.name
    return ExternalSlide(
        found.slide_id,
        TOOL,
        corners,
        side=side,
        patch_px=patch_px or None,
        center_px=extras.center_px,
        features=features,
        encoder=encoder,
        hint=folder.removeprefix(_FEATURES) if folder.startswith(_FEATURES) else None,
        barcode=extras.barcode,
        mpp=mpp,
        label=_label(numbers),
        size_px=size_px,
        patch_set=mark.patches if mark else None,
        view=mark.view if mark else None,
        name=mark.encoder if mark else None,
        array=extras.array,
        overlap=numbers.get("overlap", 0.0) / patch_px if patch_px else 0.0,
        details={"attributes": {name: plain_number(value) for name, value in numbers.items()}},
        notes=(*notes, *doubts),
    )


def _read_pt(found: FileToImport) -> tuple[Floats, str | None]:
    """Features of a `.pt`, and the encoder where the job's configuration of that folder names it."""
    if found.partner is None or not found.partner.is_file():
        msg = (
            f"{found.path} holds no coordinates, and {found.partner} is missing: import the job's folder as TRIDENT "
            "left it, with `patches` beside the features"
        )
        raise StoreError(msg)
    name = found.path.parent.name.removeprefix(_FEATURES)
    said = (found.path.parent.parent / f"_config_feats_{name}.json").is_file()
    return read_torch_file(found.path), name if said else None


def _side_read(stated: float | None, numbers: dict[str, float]) -> tuple[float | None, tuple[str, ...]]:
    """Side of a patch at level 0 as TRIDENT reads it, and what to say where its attribute is another.

    It reads, and steps its grid by, the rounded `patch_size * level0_magnification / target_magnification`, and writes
    the same number cut down to a whole one (409.0 for 409.6, where 410 px are read).
    """
    names = ("patch_size", "level0_magnification", "target_magnification")
    if stated is None or not all(numbers.get(name) for name in names):
        return stated, ()
    patch_px, level0, target = (numbers[name] for name in names)
    exact = patch_px * level0 / target
    read = float(round(exact))
    if stated != math.floor(exact) or read == stated:
        return stated, ()
    note = (
        f"patch_size_level0 is {stated:g}, but TRIDENT reads {patch_px:g} * {level0:g} / {target:g} = {exact:g} as "
        f"{read:g} px: {read:g} px are taken"
    )
    return read, (note,)


@dataclass(frozen=True)
class _State:
    """What `wsi_states` says of a slide: um/px, and width and height of level 0."""

    file: str
    mpp: float | None
    size_px: tuple[int, int] | None


def _state_mpp(found: FileToImport, size_px: tuple[int, int] | None) -> tuple[float | None, tuple[str, ...]]:
    """um/px of the slide as the job's state files have it, and what to say where they cannot be used."""
    states = [one for one in _states(found) if one.mpp is not None]
    absurd = [one for one in states if not is_plausible(one.mpp or 0.0)]
    if absurd:  # copied from metadata, where it was a print resolution
        return None, (f"wsi_states/{absurd[0].file} has {absurd[0].mpp:g} um/px, which no slide has: it is not taken",)
    mine = [one for one in states if None in (one.size_px, size_px) or one.size_px == size_px]
    if states and not mine:
        return None, (f"wsi_states/{states[0].file} is of an image of another size: its um/px is not taken",)
    if len({one.mpp for one in mine}) > 1:
        said = ", ".join(f"{one.file} {one.mpp:g}" for one in mine)
        return None, (f"wsi_states has several um/px of this slide, and none is taken: {said}",)
    return (mine[0].mpp if mine else None), ()


def _states(found: FileToImport) -> list[_State]:
    """State files of a slide, by its name in them, in the job that the file lies in."""
    job = next((up for up in found.path.absolute().parents[1:4] if (up / "wsi_states").is_dir()), None)
    names = [] if job is None else sorted((job / "wsi_states").glob(f"{glob.escape(found.slide_id)}__*.json"))
    states = []
    for path in names:
        try:
            content = json.loads(path.read_bytes())
            if content["slide"]["name"] != found.slide_id:
                continue
            meta = content["meta"]
            mpp, size = meta.get("mpp"), meta.get("dimensions")
            states.append(
                _State(path.name, None if mpp is None else float(mpp), (int(size[0]), int(size[1])) if size else None)
            )
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            msg = f"{path} is no state file of TRIDENT ({type(error).__name__}): delete it, and declare --mpp"
            raise StoreError(msg) from error
    return states


def write_trident(outgoing: ExportSlide, folder: Path) -> tuple[list[Path], list[str]]:
    """Write patches and features of a slide below `folder`, a job's folder; returns files, and what was left out.

    Raises
    ------
    StoreError
        If two keys would be one file, or share patches of different sides.
    """
    written: list[Path] = []
    notes: list[str] = []
    name = outgoing.slide.slide_id
    sides: dict[Path, float] = {}
    keys: dict[Path, str] = {}
    for column in outgoing.columns:
        if column.features.ndim != 2:
            notes.append(f"{column.key}: TRIDENT has no place for several vectors a patch")
            continue
        attributes = _attributes(outgoing, column)
        job = folder / _job_name(column, attributes)
        place = job / "patches" / f"{name}_patches.h5"
        path = job / f"features_{column.key.encoder}" / f"{name}.h5"
        if not math.isclose(sides.setdefault(job, column.side_px), column.side_px, rel_tol=1e-9):
            msg = f"slide {name}: {column.key} and another key would share the patches {place}: choose with --key"
            raise StoreError(msg)
        if path in keys:
            msg = f"slide {name}: {column.key} and {keys[path]} would both be {path}: choose with --key"
            raise StoreError(msg)
        keys[path] = str(column.key)
        for target in (place, path):
            if target in written:  # encoders of one view share their patches
                continue
            if target.exists():
                notes.append(kept(target))
                continue
            _write(target, outgoing, column, attributes=attributes, features=target == path)
            written.append(target)
    return written, notes


def _attributes(outgoing: ExportSlide, column: ExportColumn) -> dict[str, Any]:
    """Attributes of `coords`: those of the file the features came from, or the same made from um.

    TRIDENT cuts again what it reads by `patch_size * level0_magnification / target_magnification`, so the target is
    chosen such that this gives the side at level 0; the magnification of level 0 is its label for the slide's um/px.
    """
    slide = outgoing.slide
    own = column.of(TOOL).get("attributes", {})
    magnification = magnification_label(slide.mpp)
    share = overlap_share(outgoing.patch_set, column.header.fov_um)
    made = {
        "patch_size": column.patch_px,
        "patch_size_level0": plain_number(column.side_px),
        "level0_magnification": plain_number(magnification),
        "target_magnification": plain_number(round(magnification * column.patch_px / column.side_px, 12)),
        "overlap": round(share * column.patch_px),
        "level0_width": slide.width_px,
        "level0_height": slide.height_px,
    }
    return {**made, **own, "name": slide.slide_id, MARK: mark_of(outgoing, column).text()}


def magnification_label(mpp: float) -> float:
    """TRIDENT's label of a scale; coarser than it knows any, the label is halved with each factor of two."""
    return next((label for below, label in _LABELS if mpp < below), 5.0 * 2.0 ** -math.floor(math.log2(mpp / 1.2)))


def _label(numbers: dict[str, float]) -> tuple[str, float, float] | None:
    """What the file calls level 0, and the um/px that stand for it."""
    said = numbers.get("level0_magnification")
    bounds = [0.0, *(below for below, _ in _LABELS)]
    found = [i for i, (_, label) in enumerate(_LABELS) if label == said]
    return (f"{said:g}x", bounds[found[0]], bounds[found[0] + 1]) if found else None


def _job_name(column: ExportColumn, attributes: dict[str, Any]) -> str:
    """Folder of the patches; its magnification is nominal, so that slides of one view share it."""
    own = column.of(TOOL).get("attributes", {})
    magnification = own.get("target_magnification") or 10.0 / column.header.mpp
    return f"{magnification:.4g}x_{attributes['patch_size']}px_{attributes['overlap']}px_overlap"


def _write(
    path: Path, outgoing: ExportSlide, column: ExportColumn, *, attributes: dict[str, Any], features: bool = False
) -> None:
    """Write one file: datasets grow by rows in chunks of one row, attributes sit on the datasets."""
    import h5py

    side = float(attributes["patch_size_level0"])
    centers = outgoing.patches.center_px
    corners = np.rint(centers - side / 2).astype(np.int64)
    with atomic_path(path, once=True) as temporary, h5py.File(temporary, "w") as file:
        if features:
            rows = _growing(file, "features", np.asarray(column.features, dtype=np.float32))
            rows.attrs.update(
                {"name": outgoing.slide.slide_id, "savetodir": path.parent.name, "encoder": column.encoder}
            )
        coords = _growing(file, "coords", corners)
        coords.attrs.update({**attributes, "savetodir": path.parent.parent.name})
        write_extras(file, outgoing, again_px=corners + side / 2, corners_px=corners.astype(np.float64))


def _growing(file: Any, name: str, values: Floats | Any) -> Any:
    row = values.shape[1:]
    return file.create_dataset(
        name, data=values, maxshape=(None, *row), chunks=(1, *row) if len(values) else None, track_times=False
    )
