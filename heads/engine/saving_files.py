"""The two files of a saved head: JSON for words, safetensors for arrays, each of which names the other's content."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.atomic import atomic_path
from ...store.errors import DamagedFileError, HeadError

ENCODING_TYPE, ENCODING_VERSION = "tissuary-head", "1"
WORDS, ARRAYS = "head.json", "head.safetensors"
LIBRARIES = ("tissuary", "torch", "numpy", "scipy", "scikit-learn", "safetensors")


def write_saved(folder: Path, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write both files, the JSON last, so that a folder with a JSON that fits holds a whole head."""
    from safetensors.numpy import save

    content = save(dict(arrays))
    head = {
        "encoding-type": ENCODING_TYPE,
        "encoding-version": ENCODING_VERSION,
        "arrays_sha256": hashlib.sha256(content).hexdigest(),
        **words,
    }
    text = json.dumps(head, indent=1, default=_plain, allow_nan=False)
    with atomic_path(folder / ARRAYS) as partial:
        partial.write_bytes(content)
    with atomic_path(folder / WORDS) as partial:
        partial.write_text(text, encoding="utf-8")


def read_saved(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read both files.

    Raises
    ------
    HeadError
        If there is no saved head, or one of another version.
    DamagedFileError
        If a file is damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / WORDS
    if not path.is_file():
        msg = f"{folder} holds no saved head: there is no {WORDS}; `tissuary train` makes one"
        raise HeadError(msg)
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
        content = (folder / ARRAYS).read_bytes()
    except (OSError, ValueError) as error:
        msg = f"{folder}: cannot be read ({error}); train the head again"
        raise DamagedFileError(msg) from error
    _check_encoding(words, path)
    if hashlib.sha256(content).hexdigest() != words["arrays_sha256"]:
        msg = f"{folder}: {ARRAYS} is not the file that {WORDS} was written with: damaged, or of another head"
        raise DamagedFileError(msg)
    try:
        return words, load(content)
    except SafetensorError as error:
        msg = f"{folder / ARRAYS}: {error}; train the head again"
        raise DamagedFileError(msg) from error


def _check_encoding(words: Any, path: Path) -> None:
    found = (words.get("encoding-type"), words.get("encoding-version")) if isinstance(words, dict) else (None, None)
    if found != (ENCODING_TYPE, ENCODING_VERSION):
        msg = f"{path} is {found[0]} version {found[1]}; this version of tissuary reads {ENCODING_TYPE} 1"
        raise HeadError(msg)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a prediction goes through; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a bare GPU box has no metadata of tissuary
            continue
    return found


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    msg = f"a saved head with a {type(value).__name__} among its words; wanted numbers and words"
    raise HeadError(msg)
