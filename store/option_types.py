"""Whether options have the types that their annotations name."""

from __future__ import annotations

import numbers
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from .errors import StoreError

WORDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
"""What an option of a type takes."""


def check_types(options: Any) -> None:
    """Refuse fields of a dataclass of options that are plain types and hold another.

    Raises
    ------
    StoreError
        If there is one; the message names the field, its value and what it takes.
    """
    for name, hint in get_type_hints(type(options)).items():
        if wrong := wanted_type(getattr(options, name), hint):
            msg = f"{name}={getattr(options, name)!r}: wanted {wrong}"
            raise StoreError(msg)


def wanted_type(value: object, hint: Any) -> str:
    """What an option takes, such as "a whole number or None"; empty where the value is that.

    Annotations that are not made of plain types alone, such as `int | None`, take anything.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not all(kind in (*WORDS, NoneType) for kind in kinds) or any(_is(value, kind) for kind in kinds):
        return ""
    return " or ".join([WORDS[kind] for kind in kinds if kind in WORDS] + ["None"] * (NoneType in kinds))


def _is(value: object, kind: type) -> bool:
    """Whether a value, numpy's among them, is of a type; a whole number is a number, and True is none."""
    if kind in (NoneType, str):
        return isinstance(value, kind)
    if kind is bool or isinstance(value, bool | np.bool_):
        return kind is bool and isinstance(value, bool | np.bool_)
    return isinstance(value, numbers.Integral if kind is int else numbers.Real)
