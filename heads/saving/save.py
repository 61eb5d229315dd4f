"""Saving a head: safetensors and JSON with all that a new slide needs, read back before they are written."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import DamagedFileError, HeadError
from ...store.files.atomic import atomic_path
from ...store.table import Table
from ..protocols.protocol import Protocol
from .features import PRECISION_TOLERANCE, FeatureNeed
from .offset import SlideOffset
from .values import Packer, packed_head, restored_head

if TYPE_CHECKING:
    from ...store.files.features import FeatureHeader
    from ...store.store import Store

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


STANDARDISATIONS = ("slide", "none")


def save_head(
    head: Any,
    folder: Path,
    *,
    table: Table,
    protocol: Protocol,
    headers: Mapping[str, Sequence[FeatureHeader]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Save a fitted head as `head.json` and `head.safetensors`, and make sure that it comes back the same.

    Parameters
    ----------
    head
        Of the registry, or of the user's own (its class is then given to `load_head`).
    folder
        Made where it is not there. A head in it is replaced.
    table
        The prepared training table that the head was fitted on.
    headers
        Of the features' files by key, as `headers_of` finds them: precision, up-sampling and licence.
    preprocessing
        What was done to targets and weights, for the record.

    Raises
    ------
    HeadError
        If the head is not fitted, keeps what cannot be saved, does not predict the same after it was read again, or
        learnt on principal components of features, which a new slide does not have.
    """
    if protocol.feature_standardisation not in STANDARDISATIONS:
        msg = (
            f"protocol {protocol.name} standardises features by {protocol.feature_standardisation!r}, which new slides "
            f"cannot be given: train with one of {', '.join(STANDARDISATIONS)}"
        )
        raise HeadError(msg)
    packer = Packer()
    needs = _needs(head, table, headers or {})
    record = _record(head, table, protocol, needs) | {"preprocessing": dict(preprocessing or {})}
    # By these a slide that is predicted is known as one that trained the head, whatever it is called by then.
    record["training"]["source_digests"] = _source_digests(headers or {})
    offset = SlideOffset.fit(table, centring=protocol.target_centring)
    state = {"offset": packer.pack(offset, "offset"), "head": packed_head(head, packer, "head")}
    _check_comes_back(head, state, packer, table, needs)
    write_saved(folder, {**record, "state": state}, packer.arrays)


def headers_of(store: Store, table: Table, *, patches: str) -> dict[str, tuple[FeatureHeader, ...]]:
    """Headers of a table's features by key, one a slide."""
    columns = (*table.columns, *table.token_columns, *table.control_columns)
    return {key: tuple(store.header(key, one, patches=patches) for one in table.slide_ids) for key in columns}


def _needs(head: Any, table: Table, headers: Mapping[str, Sequence[FeatureHeader]]) -> tuple[FeatureNeed, ...]:
    """All pooled features, and those tokens and controls that the head looks at."""
    from ..registry import HEADS

    entry = HEADS.get(registered_name(head))
    roles = [("pooled", column) for column in table.columns.values()]
    if entry is not None and not entry.features:
        roles = [("control", column) for column in table.control_columns.values()] if entry.control else []
    if hasattr(head, "columns"):
        used = {column.key for column in head.columns(table)}
        roles += [("token", column) for key, column in table.token_columns.items() if key in used]
    return tuple(FeatureNeed.of(column, role, headers.get(column.key, ())) for role, column in roles)


def _source_digests(headers: Mapping[str, Sequence[FeatureHeader]]) -> list[str]:
    """Digest of each training slide's image; none where headers are not given."""
    return [header.source_digest for header in next(iter(headers.values()), ())]


def registered_name(head: Any) -> str:
    """The name of a head in the registry, else of its class."""
    from ..registry import HEADS

    cls = type(head)
    here = f"{cls.__module__.rsplit('.heads.', 1)[-1]}:{cls.__qualname__}"
    return next((name for name, entry in HEADS.items() if entry.location == here), cls.__qualname__)


def _record(head: Any, table: Table, protocol: Protocol, needs: Sequence[FeatureNeed]) -> dict[str, Any]:
    """All that is said of a saved head beside its state."""
    from ...store.naming import FeatureKey
    from ..contract import options_of

    return {
        "head": registered_name(head),
        "mode": getattr(head, "mode", "default"),
        "options": options_of(head),
        "chosen": dict(getattr(head, "chosen_", {})),
        "parameters": int(getattr(head, "n_parameters_", 0)),
        "features": [asdict(need) for need in needs],
        "precision_tolerance": PRECISION_TOLERANCE,
        "standardisation": protocol.feature_standardisation,
        "panel": list(table.panel),
        "target": {"rule": protocol.target, "smoothing": protocol.smoothing, "centring": protocol.target_centring},
        "protocol": asdict(protocol),
        "licences": {FeatureKey.parse(need.key).encoder: need.licence for need in needs if need.role != "control"},
        "training": {"slides": table.slide_ids, "patients": table.patient_ids, "spots": len(table)},
        "versions": versions(),
    }


def _check_comes_back(
    head: Any, state: dict[str, Any], packer: Packer, table: Table, needs: Sequence[FeatureNeed]
) -> None:
    """Read what is about to be written, and predict the first training slide with both.

    Raises
    ------
    HeadError
        If the two differ.
    """
    import json

    again = restored_head(json.loads(json.dumps(state["head"])), packer.arrays, head_class=type(head))
    keys = {need.key for need in needs}
    slide = table.select_slides([0])
    bare = replace(
        slide,
        targets=None,
        weights=None,
        token_columns={key: one for key, one in slide.token_columns.items() if key in keys},
    )
    if not np.array_equal(head.predict(bare), again.predict(bare), equal_nan=True):
        msg = (
            f"{type(head).__name__} predicts other values after it was saved and read again: what `predict` needs must "
            "be in attributes that end in _, or follow from the constructor's options"
        )
        raise HeadError(msg)
