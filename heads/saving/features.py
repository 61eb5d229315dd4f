"""Which features a saved head reads, and whether those of a table are the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...store.errors import FingerprintError, HeadError
from ...store.files.column import FeatureColumn, standardise
from ...store.join import UNEQUAL
from ...store.table import Table

if TYPE_CHECKING:
    from ...store.files.features import FeatureHeader

log = logging.getLogger(__name__)

ROLES = {"pooled": "columns", "token": "token_columns", "control": "control_columns"}
"""Role of a feature key, and the part of a table that holds it."""

ROUND_OFF = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Relative rounding error of one operation, by precision of the forward pass."""

PRECISION_TOLERANCE = 2.0**-7
"""Largest round-off of features that serve a head which learnt on others: bf16 and better pass, 8-bit types do not."""


@dataclass(frozen=True)
class FeatureNeed:
    """One feature key that a head reads.

    Attributes
    ----------
    key, role
        The key, and "pooled", "token" or "control".
    row_shape
        (dim,) or (tokens, dim).
    fingerprint
        What made the numbers that the head learnt on.
    precision
        Of the forward passes, where known.
    upsampling
        Smallest and largest factor over the training slides, where known.
    mpp, licence
        Of the view, and of the backbone's weights, where known.
    """

    key: str
    role: str
    row_shape: tuple[int, ...]
    fingerprint: str
    precision: tuple[str, ...] = ()
    upsampling: tuple[float, float] | None = None
    mpp: float | None = None
    licence: str | None = None

    @classmethod
    def of(cls, column: FeatureColumn, role: str, headers: Sequence[FeatureHeader] = ()) -> FeatureNeed:
        """From the column that a head learnt on, and the headers of its files."""
        need = cls(column.key, role, column.row_shape, column.fingerprint)
        if not headers:
            return need
        factors, licence = [header.upsampling for header in headers], headers[0].record.get("licence")
        return replace(
            need,
            precision=tuple(sorted({header.precision for header in headers})),
            upsampling=(min(factors), max(factors)),
            mpp=headers[0].mpp,
            licence=None if licence is None else str(licence),
        )


def chosen_columns(needs: Sequence[FeatureNeed], table: Table, *, standardisation: str) -> Table:
    """The table with the features that are needed, in their order, standardised as in training.

    Parameters
    ----------
    table
        As `Store.table` makes it: features as stored.
    standardisation
        "slide" or "none"; controls are always z-scored within slides.

    Raises
    ------
    HeadError
        If a key is missing or was standardised already.
    FingerprintError
        If features were made by another encoder than those of training.
    """
    kept: dict[str, dict[str, FeatureColumn]] = {part: {} for part in ROLES.values()}
    for need in needs:
        column = checked_column(need, getattr(table, ROLES[need.role]))
        per_slide = standardisation == "slide" or need.role == "control"
        kept[ROLES[need.role]][need.key] = standardise(column, within="slide") if per_slide else column
    return replace(table, **kept)  # type: ignore[arg-type]


def checked_column(need: FeatureNeed, columns: Mapping[str, FeatureColumn]) -> FeatureColumn:
    """The column that is needed.

    Raises
    ------
    HeadError, FingerprintError
        As `chosen_columns`.
    """
    if need.key not in columns:
        option = {"pooled": "--views", "token": "--tokens or --layout", "control": "--views"}[need.role]
        msg = (
            f"this head reads {need.role} features {need.key}, the table has {', '.join(columns) or 'none'}: featurize "
            f"the slides with the same backbone and {option}, and ask for the key when the table is made"
        )
        raise HeadError(msg)
    column = columns[need.key]
    if column.fingerprint != need.fingerprint:
        msg = (
            f"{need.key} has fingerprint {column.fingerprint[:12]}, this head learnt on {need.fingerprint[:12]}: "
            "weights, options or version of the encoder differ. Featurize the slides with the encoder of training, or "
            "train again on these features."
        )
        raise FingerprintError(msg)
    if column.row_shape != need.row_shape:
        msg = f"{need.key} has rows of shape {column.row_shape}, this head learnt on {need.row_shape}"
        raise HeadError(msg)
    if column.shift is not None:
        msg = f"{need.key} is standardised already: give the table as the store makes it, the head does the rest"
        raise HeadError(msg)
    return column


def check_headers(needs: Sequence[FeatureNeed], headers: Mapping[str, Sequence[FeatureHeader]]) -> tuple[str, ...]:
    """Compare precision and up-sampling of features with those of training, and say what differs.

    Returns
    -------
    tuple of str
        Sentences, also logged as warnings: what is allowed, and may still cost accuracy.

    Raises
    ------
    HeadError
        If features were computed more coarsely than `PRECISION_TOLERANCE` allows.
    """
    told = []
    for need in needs:
        for header in headers.get(need.key, ()):
            if header.precision not in need.precision and need.precision:
                _check_precision(need, header.precision)
                told.append(
                    f"{need.key}: computed in {header.precision}, the head learnt on {'/'.join(need.precision)}"
                )
            low, high = need.upsampling or (header.upsampling, header.upsampling)
            if not low / UNEQUAL <= header.upsampling <= high * UNEQUAL:
                told.append(
                    f"{need.key}: slide {header.slide_id} is up-sampled {header.upsampling:.3g} times, training slides "
                    f"were {low:.3g} to {high:.3g} times"
                )
    unique = tuple(dict.fromkeys(told))
    for sentence in unique:
        log.warning("%s", sentence)
    return unique


def _check_precision(need: FeatureNeed, precision: str) -> None:
    if ROUND_OFF.get(precision, 1.0) > PRECISION_TOLERANCE:
        able = ", ".join(name for name, error in ROUND_OFF.items() if error <= PRECISION_TOLERANCE)
        msg = (
            f"{need.key} was computed in {precision}, whose rounding is unknown or above the tolerance of "
            f"{PRECISION_TOLERANCE:.2g} of this head: featurize in one of {able}"
        )
        raise HeadError(msg)
