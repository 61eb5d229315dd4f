"""Numbers for people: three decimals, seconds in a fitting unit, a dash for what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

DASH = "–"


def number(record: Mapping[str, object], field: str) -> float | None:
    """Return a field of a record as a float, None where it is absent, NaN, infinite or no number."""
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    as_float = float(value)
    return as_float if math.isfinite(as_float) else None


def score_text(value: float | None, *, signed: bool = False) -> str:
    """Return three decimals, or a dash; never ``-0.000``, and three digits where decimals would hide the size."""
    if value is None or not math.isfinite(value):
        return DASH
    if abs(value) >= 1000:
        return f"{value:.3g}"
    rounded = round(value, 3) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:+.3f}" if signed else f"{rounded:.3f}"


def seconds_text(value: float | None) -> str:
    """Return a duration in ms, s, min or h, or a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    for limit, per_unit, unit, digits in ((1.0, 1e-3, "ms", 0), (60.0, 1.0, "s", 1), (3600.0, 60.0, "min", 1)):
        if value < limit:
            return f"{value / per_unit:.{digits}f} {unit}"
    return f"{value / 3600:.1f} h"


def count_text(value: float | None) -> str:
    """Return a whole number with thousands set apart, or a dash."""
    return DASH if value is None else f"{round(value):,}"


def range_text(low: float | None, high: float | None) -> str:
    """Return ``low to high``, or a dash where either is missing."""
    if low is None or high is None:
        return DASH
    return f"{score_text(low)} to {score_text(high)}"
