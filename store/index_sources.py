"""The feature files that an index was made from: whether they are still those, where fingerprint and patches agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from .errors import DamagedFileError
from .index_record import IndexRecord
from .schema import FEATURES, features_path, open_h5


def features_digest(path: Path) -> str:
    """sha256 over the checksums of a feature file, which name its rows without reading them.

    Raises
    ------
    StoreError
        If it is no feature file, or has no checksums.
    """
    with open_h5(path, FEATURES) as file:
        if "crc32" not in file:
            msg = f"{path} holds no checksums: delete it and run featurize again"
            raise DamagedFileError(msg)
        return hashlib.sha256(np.ascontiguousarray(file["crc32"], dtype="<u4").tobytes()).hexdigest()


def features_stamp(path: Path) -> str:
    """Size and time of a feature file; empty where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def replaced_slides(root: Path, record: IndexRecord) -> tuple[str, ...]:
    """Slides whose features are no longer those that an index was made from.

    A file of the same size and time is taken to be the same, as the catalogue does; others are compared by content,
    so that a copied store keeps its indexes.
    """
    paths = [features_path(root, slide, key=record.key, patches=record.patches) for slide in record.slide_ids]
    known = zip(record.slide_ids, paths, record.features_stamps, record.features_digests, strict=True)
    return tuple(
        slide_id
        for slide_id, path, stamp, digest in known
        if features_stamp(path) != stamp and features_digest(path) != digest
    )
