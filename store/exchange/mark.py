"""The mark that an export leaves in another tool's file, so that an import knows the store's scale and names again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import StoreError
from .hdf import text

MARK = "tissuary"
"""Attribute, JSON, in which an export keeps what the other tool's format has no place for."""


@dataclass(frozen=True)
class Mark:
    """What tissuary leaves in a file that it exports: scale, and the names that a store held it under.

    Attributes
    ----------
    slide_mpp
        um per level-0 pixel.
    fov_um, mpp
        The patch: side, and um per pixel of its own.
    encoder
        As the feature key has it.
    dtype
        Of the features in the store.
    """

    slide_mpp: float
    fov_um: float
    mpp: float
    encoder: str
    view: str
    patches: str
    dtype: str

    def text(self) -> str:
        """As the attribute `MARK` holds it."""
        return json.dumps(asdict(self), sort_keys=True)


def _mark(said: dict[str, Any]) -> Mark:
    """A mark whose values have the types that an export gives them."""
    mark = Mark(**said)
    for name, kind in Mark.__annotations__.items():
        value = getattr(mark, name)
        if not isinstance(value, str if kind == "str" else (int, float)) or isinstance(value, bool):
            msg = f"{name} is {value!r}"
            raise TypeError(msg)
    return mark


def mark_in(attributes: Any) -> Mark | None:
    """What tissuary left in a file that it exported; None in files of others.

    Raises
    ------
    StoreError
        If it is there and says nothing sensible.
    """
    value = text(attributes, MARK)
    if value is None:
        return None
    try:
        mark = _mark(json.loads(value))
    except (ValueError, TypeError, RecursionError) as error:
        msg = f"attribute {MARK!r} is not what an export writes ({error}): export it again"
        raise StoreError(msg) from error
    lengths = [mark.slide_mpp, mark.fov_um, mark.mpp]
    if not all(0 < length < np.inf for length in lengths):
        msg = f"attribute {MARK!r} has lengths {lengths}; wanted positive ones: export it again"
        raise StoreError(msg)
    return mark
