"""The file format, version 1, as constants: encodings, dataset names, attributes, where files lie.

`docs/format.md` says the same in prose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, StoreError
from ..naming import SPOTS, FeatureKey, check_name

log = logging.getLogger(__name__)

TOOLS = {"trident": "TRIDENT", "clam": "CLAM", "stamp": "STAMP", "hest": "HEST", "triplex": "TRIPLEX"}
"""Format of `tissuary import` -> name of the tool."""

OWN = "tissuary-"

LEVELS = ("", "*/", "*/*/")
"""Folders below a path in which output of another tool is looked for."""


def tool_of(file: Any) -> str | None:
    """Format of the tool that seems to have written an opened HDF5 file, by its datasets and attributes.

    The layouts are those that the tools write (TRIDENT a91fa84, CLAM 53e2409, STAMP c54ce06, HEST afd42c3, TRIPLEX
    4750051); CLAM's features carry no attribute at all, so it comes last.
    """
    import h5py

    names = set(file)
    inside = isinstance(file.get("coords", getlink=True), h5py.HardLink)  # a link may lead to any file, or to a pipe
    coords = set(file["coords"].attrs) if inside else set()
    if "stamp_version" in file.attrs or "feats" in names:
        return "stamp"
    if "patch_size_level0" in coords:
        return "trident"
    if "mask_tb" in names:
        return "triplex"
    if names & {"barcode", "barcodes"} and names & {"embeddings", "img", "coords"}:
        return "hest"
    if {"features", "coords"} <= names or "patch_level" in coords:
        return "clam"
    return None


def mend_encoding(found: Encoding, wanted: Encoding, *, tool: str | None) -> str:
    """What to do with a file that says `found` where `wanted` was looked for, as a sentence."""
    if found.type == wanted.type:
        return f"A newer version needs a newer tissuary: `pip install --upgrade tissuary`; this one reads {wanted}."
    if found.type.startswith(OWN):
        return "It lies in a folder of another kind: move it back to where it was."
    formats = "|".join(TOOLS)
    if tool is not None:
        return (
            f"It looks like a file of {TOOLS[tool]}, and a foreign file must be imported: "
            f"`tissuary import PATH --format {tool} --store STORE`."
        )
    return (
        "It was written by something else, and a foreign file must be imported: "
        f"`tissuary import PATH --format {formats} --store STORE`."
    )


@dataclass(frozen=True)
class ToolOutput:
    """What another tool wrote at a path.

    Attributes
    ----------
    evidence
        File or folder that gives it away, relative to the path.
    format
        Of `tissuary import`; None where there is no importer.
    """

    path: Path
    tool: str
    evidence: str
    format: str | None = None

    def __str__(self) -> str:
        """What it is and what can be done, as a sentence."""
        return f"{self.path} {self.said}"

    @property
    def said(self) -> str:
        """The same without its subject."""
        version = f"; read at {_READ_AT[self.tool]}" if self.tool in _READ_AT else ""
        said = f"is the output of {self.tool} ({self.evidence}{version})"
        if self.format is not None:
            return f"{said}: take its features with `tissuary import {self.path} --format {self.format} --store STORE`"
        return f"{said}. {_WAYS[self.tool]}"


_INSTEAD = (
    "There is no importer for it yet. Featurize the slides themselves (`tissuary featurize SLIDES --store STORE`), or "
)

_WAYS = {
    "slide2vec": f"{_INSTEAD}write its vectors and corners in TRIDENT's files (docs/exchange.md): a tile's field is "
    "`tile_size_lv0` of the sidecar times `base_spacing_um` of `tiles/<id>.coordinates.meta.json`.",
    "hs2p": f"{_INSTEAD}write its corners in TRIDENT's patches files (docs/exchange.md): `x`, `y` of the .npz are "
    "level-0 corners, and um/px is `slide.base_spacing_um` of the .meta.json.",
    "LazySlide": f"{_INSTEAD}write its vectors and corners in TRIDENT's files (docs/exchange.md): join a table to its "
    "tiles by `tile_id`, not by order; um/px is `slide_properties.mpp`.",
    "slideflow": f"{_INSTEAD}write its vectors and the locations of `<slide>.index.npz` in TRIDENT's files "
    "(docs/exchange.md).",
    "eva": f"{_INSTEAD}write its vectors in TRIDENT's files (docs/exchange.md); its manifest names each patch, and "
    "their places on the slide must come from you.",
    "spared": "There is no importer for it: its files hold pictures of patches and processed counts, and neither slide "
    "nor um/px. Featurize the dataset that it was made from.",
}
"""Tools without an importer, and what their users can do."""


_READ_AT = {"slide2vec": "7.1", "hs2p": "6.1", "LazySlide": "0.13, wsidata 0.12", "spared": "2.2"}
"""Versions whose files were looked at; the files themselves do not say theirs."""


def way_without_importer(name: str) -> str | None:
    """What users of a tool without an importer can do; None where the tool is not known."""
    known = {tool.lower(): tool for tool in _WAYS} | {"wsidata": "LazySlide"}
    tool = known.get(name.lower())
    return None if tool is None else f"{tool}: {_WAYS[tool]}"


def tool_output(path: Path) -> ToolOutput | None:
    """What another tool wrote at `path`, or None where nothing is recognised. A few names are looked at, never a tree.

    slideflow and eva are known by the names of their files only; for tools with an importer see `tool_of`.
    """
    try:
        for tool, look in _LOOKS.items():
            evidence = look(path)
            if evidence is not None:
                return ToolOutput(path, tool, evidence.relative_to(path).as_posix() if evidence != path else path.name)
        return _importable(path)
    except OSError as error:  # a folder that may not be read: whoever asked says so
        log.debug("%s cannot be looked through: %s", path, error)
        return None


def _is_slide2vec(path: Path) -> Path | None:
    sidecars = [path.with_name(f"{path.stem}.meta.json")] if path.suffix in (".pt", ".npz") else []
    if path.is_dir():
        sidecars = list(_some(path, "*.meta.json", *(f"{at}*_embeddings/*.meta.json" for at in LEVELS)))
    for sidecar in sidecars:
        if {"artifact_type", "encoder_name"} <= _json(sidecar).keys():
            return sidecar if path.is_dir() else path
    request = path / "embedding_request.json"
    return request if request.is_file() and {"model", "preprocessing"} <= _json(request).keys() else None


def _is_hs2p(path: Path) -> Path | None:
    stem = path.name.removesuffix(".npz").removesuffix(".meta.json")
    metas = [path.with_name(f"{stem}.meta.json")] if stem.endswith(".coordinates") else []
    if path.is_dir():
        metas = list(_some(path, *(f"{at}*.coordinates.meta.json" for at in ("", "tiles/", "*/tiles/", "*/*/tiles/"))))
    found = next((meta for meta in metas if {"tiling", "provenance"} <= _json(meta).keys()), None)
    return found if path.is_dir() or found is None else path


def is_lazyslide(folder: Path) -> bool:
    """Whether a zarr folder is what LazySlide or wsidata write of a slide."""
    for name in ("zarr.json", ".zattrs"):
        content = _json(folder / name)
        attributes = content.get("attributes", content)
        if isinstance(attributes, dict) and attributes.keys() & {"slide_properties", "tile_spec"}:
            return True
    return False


def _is_lazyslide(path: Path) -> Path | None:
    folders = [path, *_some(path, *(f"{at}*.zarr" for at in LEVELS))] if path.is_dir() else []
    return next((folder for folder in folders if is_lazyslide(folder)), None)


def _is_slideflow(path: Path) -> Path | None:
    names = ("bags_config.json", "*.index.npz", "*/bags_config.json")
    return next(_some(path, *names), None) if path.is_dir() else None


def _is_eva(path: Path) -> Path | None:
    table = path / "manifest.csv" if path.is_dir() else path
    if table.suffix != ".csv" or not table.is_file():
        return None
    with table.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(10_000).strip().split(",")
    return table if {"origin", "embeddings", "target"} <= set(header) else None


def _is_spared(path: Path) -> Path | None:
    import h5py

    files = [path] if path.is_file() else list(_some(path, "adata.h5ad", "adata_raw.h5ad", "*/adata.h5ad"))
    for file in (file for file in files if file.suffix == ".h5ad" and h5py.is_hdf5(file)):
        with h5py.File(file, "r") as opened:
            layers = set(opened["layers"]) if isinstance(opened.get("layers"), h5py.Group) else set()
        if layers & {"c_d_log1p", "c_log1p", "d_log1p", "c_t_log1p"}:
            return file
    return None


_LOOKS: dict[str, Callable[[Path], Path | None]] = {
    "slide2vec": _is_slide2vec,
    "hs2p": _is_hs2p,
    "LazySlide": _is_lazyslide,
    "slideflow": _is_slideflow,
    "eva": _is_eva,
    "spared": _is_spared,
}


def _importable(path: Path) -> ToolOutput | None:
    """Files of a tool that has an importer: a TRIDENT job by its folders, others by their first HDF5 file."""
    import h5py

    if path.is_dir():
        job = next(_some(path, "wsi_states", "*x_*px_*px_overlap"), None)
        if job is not None:
            return ToolOutput(path, TOOLS["trident"], job.name, "trident")
    files = [path] if path.is_file() else list(_some(path, "*.h5", "*/*.h5", "*/*/*.h5", "*/*/*/*.h5"))
    for file in (file for file in files if file.suffix == ".h5" and h5py.is_hdf5(file)):
        with h5py.File(file, "r") as opened:
            found = tool_of(opened)
        if found is not None:
            evidence = file.name if file == path else file.relative_to(path).as_posix()
            return ToolOutput(path, TOOLS[found], evidence, found)
    return None


def _some(folder: Path, *patterns: str) -> Iterator[Path]:
    """The first few matches of each pattern; a folder of thousands of files is not read to its end."""
    for pattern in patterns:
        yield from islice((path for path in folder.glob(pattern) if not path.name.startswith(".")), 3)


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty where it is none or no object."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 24 else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Encoding:
    """What a file says it is, in its root attributes `encoding-type` and `encoding-version`."""

    type: str
    version: str

    def __str__(self) -> str:
        return f"{self.type} version {self.version}"


SLIDE = Encoding("tissuary-slide", "1")
PATCHES = Encoding("tissuary-patches", "1")
FEATURES = Encoding("tissuary-features", "1")
EXPRESSION = Encoding("anndata", "0.1.0")
INDEX = Encoding("tissuary-index", "2")
CATALOG = Encoding("tissuary-catalog", "2")

DAMAGE = (LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OverflowError, SystemError)
"""What h5py, numpy and json raise of a file whose bytes were changed: lost names, absurd sizes, broken text.

h5py turns an error inside a visit of links, such as a name that is no text, into `SystemError`.
"""

ALIGNMENT_BYTES = 4096
"""Datasets of a page or more start on a page, as a memory map and the page cache like it."""


def slide_path(root: Path, slide_id: str) -> Path:
    """Path of a slide's file."""
    return root / "slides" / f"{check_name(slide_id, 'slide id')}.h5"


def patches_path(root: Path, slide_id: str, *, patches: str = SPOTS) -> Path:
    """Path of a slide's patch centres."""
    return root / "patches" / check_name(patches, "patch set") / f"{check_name(slide_id, 'slide id')}.h5"


def features_path(root: Path, slide_id: str, *, key: str, patches: str = SPOTS) -> Path:
    """Path of a slide's features under one key."""
    folder = root / "features" / check_name(patches, "patch set") / str(FeatureKey.parse(key))
    return folder / f"{check_name(slide_id, 'slide id')}.h5"


def expression_path(root: Path, slide_id: str) -> Path:
    """Path of a slide's raw counts."""
    return root / "expression" / f"{check_name(slide_id, 'slide id')}.h5ad"


def index_path(root: Path, name: str) -> Path:
    """Folder of a search index."""
    return root / "indexes" / check_name(name, "index name")


def qc_path(root: Path, slide_id: str) -> Path:
    """Path of the picture of where was looked on a slide."""
    return root / "qc" / f"{check_name(slide_id, 'slide id')}.jpg"


@contextmanager
def create_h5(path: Path, encoding: Encoding) -> Iterator[Any]:
    """Open a new, page-aligned HDF5 file that carries `encoding`; its attributes get a checksum in the end."""
    import h5py

    from .checksums import seal_attributes  # needs numpy, which a command that only names paths does not wait for

    file = h5py.File(
        path,
        "w",
        libver=("v110", "v110"),
        alignment_threshold=ALIGNMENT_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    )
    try:
        file.attrs["encoding-type"] = encoding.type
        file.attrs["encoding-version"] = encoding.version
        yield file
        seal_attributes(file)
    finally:
        try:
            file.close()
        except (OSError, RuntimeError) as error:  # what h5py says of a full disk
            msg = f"cannot finish {path.parent}: {error}. Is the disk full? Free some space and run again."
            raise StoreError(msg) from error


@contextmanager
def open_h5(path: Path, encoding: Encoding) -> Iterator[Any]:
    """Open an HDF5 file for reading and refuse it unless it says that it is `encoding`.

    Raises
    ------
    StoreError
        If the file is missing, is no (whole) HDF5 file, or is of another type or version.
    """
    import h5py

    if not path.is_file():
        msg = f"{path} does not exist: featurize the slide first, or check the name with `tissuary status`"
        raise StoreError(msg)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno is not None:  # the file is not to blame: no permission, too many open files, a lock on it
            msg = f"{path} cannot be opened now ({error}): correct what keeps it from being read, and run again"
            raise StoreError(msg) from error
        msg = f"{path} is not a whole HDF5 file ({error}). Delete it and run featurize again: it will be rewritten."
        raise DamagedFileError(msg) from error
    with file, _contents_of(path):
        found = Encoding(str(file.attrs.get("encoding-type", "none")), str(file.attrs.get("encoding-version", "none")))
        if found != encoding:
            mend = mend_encoding(found, encoding, tool=tool_of(file))
            msg = f"{path} says that it is {found}; wanted {encoding}. {mend}"
            raise StoreError(msg)
        yield file


@contextmanager
def _contents_of(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or foreign file raises into one error that names the file."""
    try:
        yield
    except StoreError:
        raise
    except DAMAGE as error:
        msg = f"{path} does not hold what its format says ({error}): delete it and run featurize again"
        raise DamagedFileError(msg) from error


def required(attributes: Any, name: str, path: Path) -> Any:
    """Return attribute `name` of an opened file, or say that it is missing."""
    if name not in attributes:
        msg = f"{path} lacks the attribute {name!r} of its format: it was damaged or written by something else"
        raise DamagedFileError(msg)
    return attributes[name]
