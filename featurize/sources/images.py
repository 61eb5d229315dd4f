"""Which images a folder holds: one a slide, and for everything else the reason why it is none.

An image is chosen by its ending, and by its content where the ending says nothing; nothing is decoded. A slide of
several files (MIRAX, Hamamatsu VMS, DICOM, OME-Zarr) is one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...store.errors import CohortError, TissuaryError
from ..slides.dicom import SUFFIXES, dicom_slides, read_dicom
from ..slides.slide import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS
from ..slides.zarr_ import is_image_group, is_zarr
from .sample import NO_IMAGE, LeftOut, Refused, Sample, unknown_patient


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Run what looks at or reads `path`; an `OSError` becomes a `CohortError`.

    Even asking whether a file exists raises where its name is too long or a folder above it may not be entered.

    Raises
    ------
    CohortError
        Naming what could not be read, and why.
    """
    try:
        yield
    except TissuaryError:
        raise
    except OSError as error:
        where = error.filename or path  # of a folder, the file in it that was the cause
        msg = f"{where} cannot be read ({error.strerror or error}): correct the path, or the permission to read it"
        raise CohortError(msg) from error


SCANNER_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff")
IMAGE_SUFFIXES = (*SCANNER_SUFFIXES, *TIFF_SUFFIXES, ".jpg", ".jpeg", ".png")
"""What counts as an image in a folder, in capitals too. A single file is tried whatever its ending."""

DICOM_SUFFIXES = (".dcm", ".dicom")

UNREAD = {
    ".vsi": "Olympus VSI", ".ets": "Olympus ETS", ".czi": "Zeiss CZI", ".zvi": "Zeiss ZVI", ".lsm": "Zeiss LSM",
    ".isyntax": "Philips iSyntax", ".i2syntax": "Philips iSyntax", ".lif": "Leica LIF", ".nd2": "Nikon ND2",
    ".ims": "Imaris", ".oir": "Olympus OIR", ".kfb": "KFBio KFB", ".sdpc": "Sqray SDPC", ".mds": "Motic MDS",
    ".ndpis": "a list of NDPI files", ".afi": "a list of Aperio files", ".dzi": "Deep Zoom", ".szi": "Deep Zoom",
    ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jpx": "JPEG 2000", ".jxl": "JPEG XL", ".webp": "WebP",
    ".bmp": "a bitmap", ".gif": "GIF", ".heic": "HEIC",
}  # fmt: skip
"""Endings of images, or of what may hold them, that no reader here opens, and what they are."""

PACKED = (".zip", ".tar", ".tgz", ".7z")

IMAGE_FOLDERS = ("", "images", "image", "wsis")
"""Where images lie, relative to the counts: beside them, or in a folder of that name."""

_CONTENTS = {"a TIFF": TIFF_MAGICS, "a JPEG": (JPEG_MAGIC,), "a PNG": (PNG_MAGIC,)}


@dataclass(frozen=True)
class SlideImage:
    """One image: the file, or the folder of a DICOM slide or an OME-Zarr image, and the slide it is named after."""

    slide_id: str
    path: Path


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    images: tuple[SlideImage, ...]
    left_out: tuple[LeftOut, ...] = ()

    def named(self, slide_id: str) -> list[Path]:
        """Images of one slide id; more than one where files differ in their ending alone."""
        return list(self._by_slide.get(slide_id, ()))

    @cached_property
    def _by_slide(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for one in self.images:
            found.setdefault(one.slide_id, []).append(one.path)
        return found

    def unclear(self, slide_id: str) -> Refused | None:
        """The refusal of a slide id that several images have; None where one has it."""
        found = self.named(slide_id)
        if len(found) < 2:
            return None
        msg = (
            f"{', '.join(one.name for one in found)} are all called {slide_id}, and only one of them can be that "
            "slide: move the others away, or name the one that is meant in a manifest"
        )
        return Refused(slide_id, CohortError(msg))

    def not_read(self) -> str:
        """What is left out and may have been meant, for an error; empty where there is nothing."""
        found = [f"{one.name}: {one.reason}" for one in self.left_out if one.reason != NO_IMAGE]
        return f" ({'; '.join(found)})" if found else ""


def list_images(source: Path) -> Listing:
    """Images directly in a folder, sorted by name, hidden files left out; or the one image that a path is.

    A folder that holds nothing but one DICOM slide, and any file of it, are that slide, named after the folder.

    Raises
    ------
    OSError
        If the folder may not be read.
    """
    if source.is_file():
        return Listing((_image_of(source),))
    if is_image_group(source):
        return Listing((SlideImage(slide_name(source), source),))
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    parts = {name for path in entries if path.suffix.lower() == ".vms" for name in _parts_of(path)}
    dicom = dicom_slides(source)
    in_dicom = {file.path for files in dicom.values() for file in files}
    images: list[SlideImage] = []
    left_out: list[LeftOut] = []
    for path in entries:
        if path in in_dicom or path.name in parts or _is_beside(path):
            continue
        reason = _reason_against(path)
        if reason:
            left_out.append(LeftOut(path.name, reason))
        else:
            images.append(SlideImage(path.name if _is_dicom_folder(path) else slide_name(path), path))
    if len(dicom) == 1 and not images:
        return Listing((SlideImage(source.resolve().name, source),), tuple(left_out))
    firsts = [files[0].path for files in dicom.values()]
    images += [SlideImage(slide_name(path), path) for path in firsts]
    return Listing(tuple(sorted(images, key=lambda one: one.path.name)), tuple(left_out))


def image_files(folder: Path) -> list[Path]:
    """Images directly in a folder, sorted by name."""
    return [one.path for one in list_images(folder).images]


def slide_name(image: Path) -> str:
    """File name without its ending, `.ome.tif` counting as one."""
    stem = image.stem
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def without_image_suffix(name: str) -> str:
    """A slide's name as tables have it, without the ending of its image where it is written with one."""
    path = Path(name)
    return slide_name(path) if path.suffix.lower() in (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, ".zarr") else name


def image_named(listing: Listing, name: str, *, folder: Path, wanted: str) -> Path:
    """The image `<name>.<ending>` in a folder or in one of its `IMAGE_FOLDERS`.

    Parameters
    ----------
    listing
        Of the folder, as `images_below` gives it.
    wanted
        What needs it, for the error.

    Raises
    ------
    CohortError
        If there is none, or more than one.
    """
    found = listing.named(name)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(str(one.relative_to(folder)) for one in found) or f"none{listing.not_read()}"
    msg = (
        f"{wanted} needs the full-resolution image {name}.<tif, svs, ...> in {folder} or its folder images, found "
        f"{listed}: add it, move the others away, or name it in a manifest"
    )
    raise CohortError(msg)


def images_below(folder: Path, within: Sequence[str] = IMAGE_FOLDERS) -> Listing:
    """Images in a folder and in those of its folders that are kept for images."""
    with reading(folder):
        found = [list_images(folder / name) for name in within if (folder / name).is_dir()]
    images = tuple(image for one in found for image in one.images)
    return Listing(images, tuple(left for one in found for left in one.left_out))


def image_identity(image: Path) -> str:
    """What two names of one image share: the series of a DICOM slide, else the resolved path."""
    try:
        if _is_dicom_folder(image):
            return next(iter(dicom_slides(image)), str(image.resolve()))
        dicom = read_dicom(image) if image.suffix.lower() in SUFFIXES and image.is_file() else None
        return dicom.series if dicom is not None else str(image.resolve())
    except OSError:  # told when the slide's turn comes
        return str(image)


def _image_of(file: Path) -> SlideImage:
    """The image that one file is, or belongs to."""
    if read_dicom(file) is None:
        return SlideImage(slide_name(file), file)
    found = list_images(file.parent).images
    if len(found) == 1 and found[0].path == file.parent:
        return found[0]
    slide = next((files for files in dicom_slides(file.parent).values() if file in [one.path for one in files]), None)
    first = slide[0].path if slide else file
    return SlideImage(slide_name(first), first)


def _reason_against(path: Path) -> str:
    """Why a file or folder is no image; empty where it is one."""
    suffix = path.suffix.lower()
    if path.is_dir():
        return _reason_against_folder(path)
    if suffix in UNREAD:
        return f"{UNREAD[suffix]} is not read here: export it as a pyramidal TIFF or OME-TIFF"
    if suffix in PACKED or (suffix == ".gz" and Path(path.stem).suffix.lower() in IMAGE_SUFFIXES):
        return "packed: unpack it if a slide is in it"
    if suffix in DICOM_SUFFIXES:
        return "DICOM, but no level of a whole slide, or not to be read"
    if suffix in IMAGE_SUFFIXES:
        return "" if path.is_file() else "no file that can be read"
    if not path.is_file():  # to open a pipe would wait for ever
        return NO_IMAGE
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError:
        return NO_IMAGE
    held = next((kind for kind, magics in _CONTENTS.items() if head.startswith(magics)), None)
    return f"it holds {held}, but does not end so: rename it, or give it by itself" if held else NO_IMAGE


def _reason_against_folder(folder: Path) -> str:
    try:
        if is_image_group(folder):
            return ""
        if is_zarr(folder):
            return "a zarr group and no OME-Zarr image: give a SpatialData by itself"
        slides = len(dicom_slides(folder))
        if slides == 1:
            return ""
        if slides:
            return f"a folder of {slides} DICOM slides: give it by itself"
        images = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror or error})"
    return f"a folder with {images} image(s) in it: give it by itself" if images else NO_IMAGE


def _is_dicom_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr(path)


def _is_beside(folder: Path) -> bool:
    """Whether a folder holds the data of a slide of the same name beside it, as of MIRAX (and of VSI, `_<name>_`)."""
    if not folder.is_dir():
        return False
    around, name = folder.parent, folder.name
    if any((around / f"{name}{ending}").is_file() for ending in (".mrxs", ".MRXS")):
        return True
    return name.startswith("_") and name.endswith("_") and (around / f"{name[1:-1]}.vsi").is_file()


def _parts_of(vms: Path) -> set[str]:
    """Names of the files that a Hamamatsu VMS is made of, its JPEGs among them."""
    try:
        lines = vms.read_text("latin-1").splitlines()
    except OSError:
        return set()
    return {line.partition("=")[2].strip() for line in lines if "=" in line}


def slide_samples(source: Path) -> tuple[Sample | Refused | LeftOut, ...]:
    """Every image directly in a folder, by name, or the one image given; and what else the folder holds.

    The slide id is the file name without its ending, of a DICOM slide that of its folder. Patients are unknown. Images
    that differ in their ending alone are refused: which of them is meant is not guessed.

    Raises
    ------
    CohortError
        If the folder holds no image.
    """
    listing = list_images(source)
    if not listing.images:
        msg = (
            f"{source} holds no image directly in it ({', '.join(sorted(IMAGE_SUFFIXES))}, DICOM, OME-Zarr): give the "
            f"folder that does{listing.not_read()}"
        )
        raise CohortError(msg)
    slides = {one.slide_id: listing.unclear(one.slide_id) or _sample(one) for one in listing.images}
    return (*slides.values(), *listing.left_out)


def _sample(image: SlideImage) -> Sample:
    return Sample(image.slide_id, unknown_patient(image.slide_id), image.path)
