"""One feature key holds one fingerprint: asked before a file is added to a key's folder."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import DamagedFileError, FingerprintError
from .feature_file import read_features


def check_one_encoder(path: Path, fingerprint: str) -> None:
    """Refuse the feature file that is to be written at `path` where its key holds another encoder's.

    One other slide is looked at, the first that can be read: each was compared when it was added.

    Raises
    ------
    FingerprintError
        If another slide's features under this key have another fingerprint.
    StoreError
        If they are foreign, or of another version.
    """
    for other in _others(path):
        try:
            found = read_features(other).header.fingerprint
        except DamagedFileError:  # it says nothing, and is written anew with its own slide
            continue
        if found != fingerprint:
            msg = (
                f"{path.parent.name} of slide {other.stem} is in the store with fingerprint {found[:12]}, slide "
                f"{path.stem} would get {fingerprint[:12]}: weights, options or version differ. Store it beside "
                "the other with `--as NAME`, or delete the folder of the old features."
            )
            raise FingerprintError(msg)
        return


def _others(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    names = sorted(name for name in os.listdir(path.parent) if name.endswith(path.suffix))  # noqa: PTH208
    return [path.with_name(name) for name in names if name[0] != "." and name != path.name]
