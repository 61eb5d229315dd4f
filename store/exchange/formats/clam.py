"""CLAM: `patches/<slide>.h5` says where and how large, `h5_files/<slide>.h5` and `pt_files/<slide>.pt` hold features.

Read at CLAM 53e2409. The features carry no attributes at all: scale comes from the patches file, or is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import Floats
from ...errors import StoreError
from ..foreign import ExternalSlide, FileToImport, plain_number
from ..hdf import array_of, number, open_foreign, points_of, vectors_of
from .torch_file import read_torch_file

TOOL = "CLAM"


def find_clam(path: Path, *, coords: Path | None = None) -> tuple[FileToImport, ...]:
    """Features below a folder, each with its patches file; patches of slides without features; or one file.

    Parameters
    ----------
    coords
        Folder of the patches files; searched for below `path` where not given.
    """
    if path.is_file():
        return (_found(path, _patches_below(coords)),)
    places = _patches_below(coords or path)
    h5 = sorted(p for p in path.rglob("h5_files/*.h5") if not p.name.startswith("."))
    names = {p.stem for p in h5}
    pt = sorted(p for p in path.rglob("pt_files/*.pt") if not p.name.startswith(".") and p.stem not in names)
    features = h5 + pt
    if not features and path.name != "patches":
        features = sorted(p for p in path.iterdir() if p.suffix in (".h5", ".pt") and not p.name.startswith("."))
    have = {p.stem for p in features}
    alone = sorted(name for name in places if name not in have and coords is None)
    return tuple(
        [_found(p, places) for p in features] + [FileToImport(name, p) for name in alone for p in places[name]]
    )


def _found(path: Path, places: dict[str, list[Path]]) -> FileToImport:
    mine = places.get(path.stem, [])
    return FileToImport(path.stem, path, mine[0] if mine else None, tuple(mine[1:]))


def _patches_below(folder: Path | None) -> dict[str, list[Path]]:
    """Patches files by slide: in folders named `patches` below, else those directly in the folder itself."""
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(folder.rglob("patches/*.h5")) or sorted(folder.glob("*.h5"))
    places: dict[str, list[Path]] = {}
    for p in (p for p in files if not p.name.startswith(".")):
        places.setdefault(p.stem, []).append(p)
    return places


def read_clam(found: FileToImport) -> ExternalSlide:
    """Read features with the patches file beside them, or a patches file alone.

    Raises
    ------
    StoreError
        If the features are unfinished, are not of the patches beside them, or several patches files differ.
    """
    _check_finished(found.path)
    features, corners = _read_features(found.path)
    place = found.partner or (found.path if features is None else None)
    side = patch_px = size = None
    details: dict[str, Any] = {}
    if place is not None:
        stated, side, patch_px, size, details = _read_place(place)
        _check_rivals(found, stated, (side, patch_px, size, details))
        if corners is None:
            corners = stated
        elif found.partner is not None and not _same_set(corners, stated):
            msg = f"{found.path}: its coordinates are not those of {place}; give the folder of its own with --coords"
            raise StoreError(msg)
    if features is not None and corners is not None and len(features) != len(corners):
        msg = f"{found.path}: {len(features)} rows of features, {len(corners)} patches in {place or 'it'}"
        raise StoreError(msg)
    if features is not None and corners is None:
        msg = f"{found.path} holds no coordinates: give the folder of the patches files with --coords"
        raise StoreError(msg)
    return ExternalSlide(
        found.slide_id,
        TOOL,
        corners,
        side=side,
        patch_px=patch_px,
        features=features,
        hint=found.path.parent.parent.name if found.path.parent.name in ("h5_files", "pt_files") else None,
        size_px=size,
        details=details,
    )


def _check_rivals(found: FileToImport, stated: Floats, said: tuple[Any, ...]) -> None:
    """Two patchings of one slide can share corners and differ in side: which one was meant is not guessed."""
    for rival in found.rivals:
        corners, *others = _read_place(rival)
        if not np.array_equal(corners, stated) or tuple(others) != said:
            msg = f"{found.path}: {found.partner} and {rival} differ; give the folder of its own with --coords"
            raise StoreError(msg)


def _check_finished(path: Path) -> None:
    """CLAM writes `pt_files/<slide>.pt` last: features without it are those of a slide that was cut off."""
    mark = path.parent.parent / "pt_files" / f"{path.stem}.pt"
    if path.parent.name == "h5_files" and mark.parent.is_dir() and not mark.is_file():
        msg = f"{path} is unfinished: CLAM writes {mark} when all rows are there. Extract the slide again."
        raise StoreError(msg)


def _read_features(path: Path) -> tuple[Floats | None, Floats | None]:
    """Features and corners of a file, either None where it holds none."""
    if path.suffix == ".pt":
        return read_torch_file(path), None
    with open_foreign(path) as file:
        features = vectors_of(file, "features") if "features" in file else None
        return features, points_of(file) if "coords" in file else None


def _read_place(
    path: Path,
) -> tuple[Floats, float | None, float | None, tuple[int, int] | None, dict[str, Any]]:
    """Corners, side at level 0, side of the picture, size of level 0, and attributes; of the legacy layout too."""
    with open_foreign(path) as file:
        corners = points_of(file)
        attributes = file["coords"].attrs
        patch_px = number(attributes, "patch_size")
        if "imgs" in file:  # the layout that kept pixels
            pictures = array_of(file, "imgs")
            attributes, patch_px = pictures.attrs, float(pictures.shape[1])
        level = number(attributes, "patch_level")
        size = attributes.get("level_dim") if level == 0 else None  # it is of the patch level
        return (
            corners,
            _side(patch_px, attributes),
            patch_px,
            (int(size[0]), int(size[1])) if size is not None and len(corners) else None,
            {
                "patch_size": None if patch_px is None else plain_number(patch_px),
                "patch_level": None if level is None else int(level),
                "downsample": _downsample(attributes),
            },
        )


def legacy_side(attributes: Any) -> float | None:
    """Side of a patch at level 0 from CLAM's attributes of `coords`, or None where they do not say it."""
    return _side(number(attributes, "patch_size"), attributes)


def _side(patch_px: float | None, attributes: Any) -> float | None:
    downsample = _downsample(attributes)
    if patch_px is None or downsample is None:
        return None
    return patch_px * downsample * (number(attributes, "custom_downsample") or 1.0)


def _downsample(attributes: Any) -> float | None:
    """Level-0 pixels per pixel of the patch level: the mean of both axes, which differ by rounding."""
    value = attributes.get("downsample")
    if value is not None:
        return float(np.mean(np.asarray(value, dtype=np.float64)))
    return 1.0 if number(attributes, "patch_level") == 0 else None


def _same_set(corners: Floats, stated: Floats) -> bool:
    """Whether these are the same corners; a part of them could be of larger patches."""
    return set(map(tuple, corners.tolist())) == set(map(tuple, stated.tolist()))
