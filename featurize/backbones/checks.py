"""Checks of a backbone record: a file can hold values of any type, whatever the annotations say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...store.errors import BackboneError, InvalidNameError
from ...store.naming import FeatureKey

if TYPE_CHECKING:
    from .record import BackboneRecord

LOADING_OPTIONS = frozenset({"cache_dir", "checkpoint_path", "exportable", "kwargs_filter", "no_jit", "scriptable"})
"""Options of timm, besides `pretrained...`, that shape no architecture: they load files or change how it is run.

A checkpoint that timm loads by itself may be a pickle that runs code, and it escapes fingerprint and strict loading.
"""

PLACING_OPTIONS = frozenset({"device", "dtype"})
"""Options of timm that say where and in which arithmetic a model lies."""


def check_names(given: set[str], *, known: set[str], required: set[str], source: str) -> None:
    """Refuse missing and unknown fields, all of them named."""
    missing, unknown = sorted(required - given), sorted(given - known)
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"holds the unknown {', '.join(unknown)}"] if unknown else []
        msg = f"backbone record {source} {' and '.join(said)}; known fields are {', '.join(sorted(known))}"
        raise BackboneError(msg)


def check_key(key: Any) -> None:
    """Refuse a key that cannot be the first part of a feature key."""
    try:
        FeatureKey.parse(f"{key}@20x")
    except InvalidNameError as error:
        msg = (
            f"backbone key {key!r} reads not as <backbone>[.<pooling>] of letters, digits and _ + -, "
            "for example virchow2.cls+mean"
        )
        raise BackboneError(msg) from error


def check_choice(record: BackboneRecord, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is none of its choices."""
    value = getattr(record, name)
    if value not in choices:
        msg = f"{name} {value!r} of backbone {record.key}: choose one of {', '.join(map(repr, choices))}"
        raise BackboneError(msg)


def check_values(record: BackboneRecord) -> None:
    """Refuse a field of an unusable type or value."""
    for name in ("architecture", "licence", "version"):
        _demand(record, name, _is_text, "some text")
    for name in ("hub_id", "revision", "hub_file", "weights", "needs", "output_licence", "note"):
        _demand(record, name, lambda value: value is None or _is_text(value), "some text, or null")
    for name in ("input_px", "dim"):
        _demand(record, name, is_count, "a whole number above 0")
    for name in ("mean", "std"):
        _demand(record, name, _is_triple, "three numbers")
    _demand(record, "std", lambda value: min(value) > 0, "three numbers above 0")
    _demand(record, "architecture_options", _is_object, "an object of plain values")
    _check_options(record)
    _demand(record, "token_grid", _is_grid, "rows and columns, two whole numbers above 0, or null")
    _demand(record, "prefix_tokens", lambda value: value == 0 or is_count(value), "a whole number, 0 or more")
    _demand(record, "native_mpp", _is_scales, "a list of numbers above 0")
    _demand(record, "tile_px", lambda value: value is None or is_count(value), "a whole number above 0, or null")
    for name in ("parameters_m", "gflops"):
        _demand(record, name, lambda value: value is None or _is_positive(value), "a number above 0, or null")
    _demand(record, "needs", lambda value: record.loader != "remote" or value is not None, "what runs a remote model")
    _demand(record, "gated", lambda value: isinstance(value, bool), "true or false")
    enough = f"null, or at least input_px {record.input_px}"
    _demand(record, "crop_from_px", lambda side: side is None or (is_count(side) and side >= record.input_px), enough)


def _check_options(record: BackboneRecord) -> None:
    """Options shape an architecture; weights come through the one reader that executes nothing."""
    names = sorted(record.architecture_options)
    loading = [name for name in names if name in LOADING_OPTIONS or name.startswith("pretrained")]
    placing = [name for name in names if name in PLACING_OPTIONS]
    if loading:
        msg = (
            f"architecture_options of backbone {record.key} hold {', '.join(loading)}, which shapes no architecture: "
            f"weights are given by `weights` in the record or --weights {record.key}=PATH; take it out"
        )
        raise BackboneError(msg)
    if placing:
        msg = (
            f"architecture_options of backbone {record.key} hold {', '.join(placing)}, which shapes no architecture: "
            "the device is given by --device and the arithmetic by `precision` in the record; take it out"
        )
        raise BackboneError(msg)


def _demand(record: BackboneRecord, name: str, holds: Callable[[Any], bool], wanted: str) -> None:
    value = getattr(record, name)
    if not holds(value):
        msg = f"{name} {value!r} of backbone {record.key}: wanted {wanted}"
        raise BackboneError(msg)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(is_number, value))


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_scales(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_positive, value))


def _is_grid(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(is_count, value)))


def _is_object(value: Any) -> bool:
    """Whether a value is a dict that JSON can write: the fingerprint is taken from its text."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
