"""Open a slide: the reader that a file's first bytes ask for."""

from __future__ import annotations

from pathlib import Path

from ...store.errors import SlideError
from .slide import HDF5_MAGIC, JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS, Slide, unreadable


def open_slide(path: Path) -> Slide:
    """Open an image, choosing the reader by the file's content and not by its ending.

    - Aperio: OpenSlide for what the file says, its tiles directly where that gives the same pixels.
    - Other scanner formats: OpenSlide, which puts together tiles that overlap, are left out or placed apart (Philips,
      Leica, Ventana, Hamamatsu).
    - Every other TIFF, OME and plain pyramids included: tifffile. OpenSlide overlooks pyramids in SubIFDs and the OME
      scale, and interpolates where a level's downsample is no whole number.
    - JPEG and PNG: decoded whole, with a pyramid in memory. Their dpi never become um/px.
    - HDF5 of patches that were cut already, and folders of OME-Zarr, as in SpatialData.
    - DICOM: OpenSlide, all files of the slide from any one of them, or from the folder that holds this slide alone.

    Raises
    ------
    SlideError
        If the file is missing, may not be read, is damaged, or no image that is known.
    ScaleError
        If its metadata say that pixels are not square.
    """
    from openslide import OpenSlide

    from .zarr_ import is_zarr, open_zarr

    if is_zarr(path):
        return open_zarr(path)
    path = _file_of(path)
    head, size_bytes = _head(path)
    if head.startswith(HDF5_MAGIC):
        from .patches_h5 import open_precut

        return open_precut(path)
    vendor = OpenSlide.detect_format(path)  # asked first: an .mrxs begins as a JPEG
    if vendor == "aperio":
        from .aperio import open_aperio
        from .tiff import check_scanned_pages

        check_scanned_pages(path)
        return open_aperio(path)
    if vendor is not None and vendor != "generic-tiff":
        from .openslide_ import OpenSlideSlide
        from .tiff import check_scanned_pages

        if head.startswith(TIFF_MAGICS):
            check_scanned_pages(path)
        return OpenSlideSlide(path)
    if head.startswith(TIFF_MAGICS):
        from .tiff import open_tiff

        return open_tiff(path)
    if head.startswith((JPEG_MAGIC, PNG_MAGIC)):
        from .image import open_photo

        return open_photo(path)
    msg = (
        f"image {path} ({size_bytes} bytes) is no format that OpenSlide or tifffile knows, and no JPEG or PNG: it is "
        "damaged or of another kind; convert it to a pyramidal TIFF"
    )
    raise SlideError(msg)


def _file_of(path: Path) -> Path:
    """The file to open: of the folder of a DICOM slide any of its levels, else the path itself."""
    from .dicom import dicom_slide_of

    try:
        return (dicom_slide_of(path) if path.is_dir() else None) or path
    except OSError as error:
        if isinstance(error, SlideError):
            raise
        raise unreadable(path, error) from error


def _head(path: Path) -> tuple[bytes, int]:
    """First bytes of a file, and how many there are in all."""
    try:
        # Even asking raises, where the name is too long or a folder above may not be entered.
        is_folder = path.is_dir()
        if path.is_file():
            with path.open("rb") as file:
                return file.read(8), path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    kind = "is a folder, not an image" if is_folder else "does not exist"
    msg = f"image {path} {kind}: correct the path in the source or manifest"
    raise SlideError(msg)
