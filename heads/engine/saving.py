"""Saved heads: safetensors and JSON with all that a new slide needs, checked against its features at every use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError
from ...store.table import Table
from ..evaluation.protocol_record import Protocol
from .head import device_of
from .saved_features import PRECISION_TOLERANCE, FeatureNeed, check_headers, chosen_columns
from .saved_offset import SlideOffset
from .saving_files import read_saved, versions, write_saved
from .saving_state import packed_head, restored_head
from .saving_values import Packer, unpack

if TYPE_CHECKING:
    from ...store.feature_file import FeatureHeader
    from ...store.store import Store

STANDARDISATIONS = ("slide", "none")


@dataclass(frozen=True)
class SavedHead:
    """A head that was loaded, with what it was made with.

    Attributes
    ----------
    head
        The head itself; it predicts deviations from its slide's level, for prepared tables.
    features
        What it reads.
    offset
        Levels of new slides.
    panel
        (g,) names of the genes predicted.
    standardisation
        Of features: "slide" or "none".
    record
        The whole JSON but for the state: head, options, protocol, target, licences, training slides, versions.
    """

    head: Any
    features: tuple[FeatureNeed, ...]
    offset: SlideOffset
    panel: tuple[str, ...]
    standardisation: str
    record: dict[str, Any]

    def keys(self, role: str = "pooled") -> tuple[str, ...]:
        """Feature keys to ask of `Store.table`: "pooled", "token" or "control" ones."""
        return tuple(need.key for need in self.features if need.role == role)

    def prepare(self, table: Table) -> Table:
        """A table of any slides, made ready for the head: features checked and standardised, levels of slides.

        Standardisation and levels are those of whole slides: prepare a slide once, and select rows of it afterwards.

        Parameters
        ----------
        table
            As `Store.table` makes it, with or without counts; counts are not looked at.

        Raises
        ------
        HeadError
            If a feature key is missing.
        FingerprintError
            If features were made by another encoder than those of training.
        """
        ready = chosen_columns(self.features, table, standardisation=self.standardisation)
        bare = replace(ready, counts=None, measured=None, depth=None, targets=None, weights=None, panel=self.panel)
        return replace(bare, genes=np.array(self.panel, dtype=np.str_), target_offset=self.offset.of(bare))

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict whole values (n, n_panel) on the target's scale for rows of any slides; see `prepare`."""
        return self.predict_prepared(self.prepare(table))

    def predict_prepared(self, table: Table) -> NDArray[np.float32]:
        """Predict whole values (n, n_panel) for a table of `prepare`, or for some rows of it."""
        assert table.target_offset is not None
        deviation = np.asarray(self.head.predict(table), dtype=np.float32)
        return np.asarray(deviation + table.target_offset[table.slide], dtype=np.float32)

    def check(self, headers: Mapping[str, Sequence[FeatureHeader]]) -> tuple[str, ...]:
        """What precision and up-sampling of new features say, in sentences; see `saved_features.check_headers`."""
        return check_headers(self.features, headers)


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
    offset = SlideOffset.fit(table, centring=protocol.target_centring)
    state = {"offset": packer.pack(offset, "offset"), "head": packed_head(head, packer, "head")}
    _check_comes_back(head, state, packer, table, needs)
    write_saved(folder, {**record, "state": state}, packer.arrays)


def load_head(folder: Path, *, head_class: type | None = None, device: str | None = None) -> SavedHead:
    """Load a saved head; nothing in its files is executed.

    Parameters
    ----------
    head_class
        The class of a head from outside this package.
    device
        Where it predicts, in place of the device that it was fitted with.

    Raises
    ------
    HeadError
        If the folder holds no saved head, or one of another version.
    DamagedFileError
        If its files are damaged or do not belong together.
    """
    words, arrays = read_saved(folder)
    state = words.pop("state")
    if device is not None:
        device_of(device)
        _move(state["head"], device)
    needs = tuple(
        FeatureNeed(
            **{
                **one,
                "row_shape": tuple(one["row_shape"]),
                "precision": tuple(one["precision"]),
                "upsampling": None if one["upsampling"] is None else tuple(one["upsampling"]),
            }
        )
        for one in words["features"]
    )
    return SavedHead(
        head=restored_head(state["head"], arrays, head_class=head_class),
        features=needs,
        offset=unpack(state["offset"], arrays),
        panel=tuple(words["panel"]),
        standardisation=words["standardisation"],
        record=words,
    )


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


def _move(words: dict[str, Any], device: str) -> None:
    """Have a head and those inside it predict on another device."""
    if "device" in words["options"]:
        words["options"]["device"] = device
    for value in words["learnt"].values():
        for inner in _heads_in(value):
            _move(inner, device)


def _heads_in(words: Any) -> list[dict[str, Any]]:
    if isinstance(words, dict):
        if "head" in words:
            return [words["head"]]
        return [one for value in words.values() for one in _heads_in(value)]
    return [one for value in words for one in _heads_in(value)] if isinstance(words, list) else []
