"""Saving a head: safetensors and JSON with all that a new slide needs, read back before they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...store.errors import HeadError
from ...store.table import Table
from ..evaluation.protocol_record import Protocol
from .saved_features import PRECISION_TOLERANCE, FeatureNeed
from .saved_offset import SlideOffset
from .saving_files import versions, write_saved
from .saving_state import packed_head, restored_head
from .saving_values import Packer

if TYPE_CHECKING:
    from ...store.feature_file import FeatureHeader
    from ...store.store import Store

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
