"""A saved head in use: loaded without executing anything, checked against the features of every new slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...store.table import Table
from ..engine.device import device_of
from .features import FeatureNeed, check_headers, chosen_columns
from .offset import SlideOffset
from .save import read_saved
from .values import restored_head, unpack

if TYPE_CHECKING:
    from ...store.files.features import FeatureHeader


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
