"""Which DICOM files are one slide: the series that a file belongs to, read from its header.

A slide is a series of files, one or more for each level, label and overview, in one folder; OpenSlide opens all of it
from any of them. Source: DICOM PS3.10 (file meta information) and PS3.5 (data sets, explicit and implicit).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...store.errors import SlideError

SUFFIXES = (".dcm", ".dicom", ".dic", "")
"""Endings of DICOM files; many have none."""

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_CLASS, _SYNTAX, _KIND, _SERIES = (0x0002, 0x0002), (0x0002, 0x0010), (0x0008, 0x0008), (0x0020, 0x000E)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_BESIDE = ("LABEL", "OVERVIEW", "THUMBNAIL")

Tag = tuple[int, int]


@dataclass(frozen=True)
class DicomFile:
    """What a file of a slide says of itself.

    Attributes
    ----------
    series
        Its series instance UID, one a slide.
    is_level
        Whether it holds pixels of the scan, not a label, overview or thumbnail.
    """

    path: Path
    series: str
    is_level: bool


def read_dicom(path: Path) -> DicomFile | None:
    """Read the header of a DICOM file; None where it is none, no whole slide, or damaged.

    Raises
    ------
    OSError
        If the file may not be read.
    """
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
        try:
            meta = _elements(file, wanted=(_CLASS, _SYNTAX), explicit=True, last=(0x0002, 0xFFFF))
            if meta.get(_CLASS) != _WHOLE_SLIDE or meta.get(_SYNTAX) in (_BIG_ENDIAN, _DEFLATED):
                return None
            explicit = meta.get(_SYNTAX) != _IMPLICIT
            said = _elements(file, wanted=(_KIND, _SERIES), explicit=explicit, last=_SERIES)
        except struct.error:  # the file ends inside of its header
            return None
    if _SERIES not in said:
        return None
    return DicomFile(path, said[_SERIES], not any(name in _BESIDE for name in said.get(_KIND, "").split("\\")))


def dicom_slides(folder: Path) -> dict[str, list[DicomFile]]:
    """Files of each slide directly in a folder, by series; series without a level are left out.

    Raises
    ------
    OSError
        If the folder or a file in it may not be read.
    """
    found: dict[str, list[DicomFile]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            try:
                file = read_dicom(path)
            except OSError:  # listed by name as not to be read, and no reason to lose the others
                continue
            if file is not None:
                found.setdefault(file.series, []).append(file)
    return {series: files for series, files in found.items() if any(file.is_level for file in files)}


def dicom_slide_of(folder: Path) -> Path | None:
    """A file of the only slide in a folder, which stands for all of it; None where there is no DICOM slide.

    Raises
    ------
    SlideError
        If there are several.
    OSError
        If the folder or a file in it may not be read.
    """
    slides = dicom_slides(folder)
    if len(slides) > 1:
        msg = f"{folder} holds {len(slides)} DICOM slides: give one file of the slide that is meant"
        raise SlideError(msg)
    return next((file.path for files in slides.values() for file in files if file.is_level), None)


def _elements(file: BinaryIO, *, wanted: tuple[Tag, ...], explicit: bool, last: Tag) -> dict[Tag, str]:
    """Text of the wanted elements of a data set, read up to the tag `last`; sequences are skipped."""
    found: dict[Tag, str] = {}
    while True:
        start = file.tell()
        header = file.read(4)
        if not header:
            return found
        tag: Tag = struct.unpack("<HH", header)
        if tag > last:
            file.seek(start)
            return found
        kind, length = _kind_and_length(file, explicit=explicit)
        if length == _UNDEFINED:
            _skip_sequence(file, explicit=explicit and kind != b"UN")
        elif tag in wanted:
            found[tag] = file.read(length).decode("ascii", "replace").strip("\0 ")
        else:
            file.seek(length, 1)


def _kind_and_length(file: BinaryIO, *, explicit: bool) -> tuple[bytes, int]:
    """Value representation and length of the element whose tag was just read."""
    if not explicit:
        return b"", struct.unpack("<I", file.read(4))[0]
    kind, length = struct.unpack("<2sH", file.read(4))
    return kind, struct.unpack("<I", file.read(4))[0] if kind in _LONG else length


def _skip_sequence(file: BinaryIO, *, explicit: bool) -> None:
    """Skip the items of a sequence of undefined length, up to and with its delimiter."""
    while True:
        group, element, length = struct.unpack("<HHI", file.read(8))
        if (group, element) == _SEQUENCE_END:
            return
        if (group, element) != _ITEM:
            msg = f"({group:04x},{element:04x}) where an item of a sequence was expected"
            raise struct.error(msg)
        if length != _UNDEFINED:
            file.seek(length, 1)
            continue
        while True:
            tag = struct.unpack("<HH", file.read(4))
            if tag == _ITEM_END:
                file.seek(4, 1)
                break
            kind, size = _kind_and_length(file, explicit=explicit)
            if size == _UNDEFINED:
                _skip_sequence(file, explicit=explicit and kind != b"UN")
            else:
                file.seek(size, 1)
