"""Patient ids: one spelling for a patient, whatever a source writes in the cell that names them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from .naming import UNKNOWN_PATIENT

NOT_SAID = frozenset(
    {
        *("", "na", "n/a", "n.a", "nan", "nat", "none", "null", "nil", "<na>", "unk", "unknown", "undefined"),
        *("missing", "not available", "not known", "not specified", "not reported", "not recorded", "not given"),
        # Missing-value terms of the INSDC (MIxS), which public sample sheets use.
        *("not applicable", "not collected", "not provided", "restricted access"),
    }
)
"""Cells, in lower case, by which programs and people say that they do not know: compared without blanks, dashes and
marks such as `#` and `?` around them, and with `_` and `-` between words as blanks."""

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_UNSEEN = ("Cf", "Cc")  # zero-width blanks, byte order marks


def cell_text(cell: Any) -> str:
    """Return the text of a table's cell of any type: stripped, whole numbers without ".0", "" where nothing is said.

    Text is in Unicode's compatible form (NFKC), without characters that nobody sees, and with one blank where there
    are several or ones that do not break.
    """
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", errors="replace")
    if not isinstance(cell, str):
        if hasattr(cell, "item") and getattr(cell, "size", 1) == 1:  # a number of numpy, or an array of one value
            return cell_text(str(cell) if getattr(cell, "dtype", None) == "float32" else cell.item())
        if isinstance(cell, float):
            return _number(cell)
        cell = str(cell)
    text = unicodedata.normalize("NFKC", cell)
    seen = (one for one in text if one.isspace() or unicodedata.category(one) not in _UNSEEN)
    return " ".join("".join(seen).split())


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def known_text(cell: Any) -> str | None:
    """Return the text of a cell, None where it is empty or a word for "not known" (`NOT_SAID`)."""
    text = cell_text(cell)
    word = " ".join(re.split(r"[\s_-]+", text.casefold())).strip(" .?#*+")
    return None if word in NOT_SAID else text


def patient_name(cell: Any) -> str | None:
    """Return the patient that a cell names, in the one spelling of this package, or None where it names nobody.

    Parameters
    ----------
    cell
        Text, a number, or nothing, as a table, JSON or AnnData gives it.

    Examples
    --------
    >>> patient_name(7.0), patient_name(" P1 "), patient_name("007"), patient_name("N/A")
    ('7', 'P1', '007', None)
    """
    text = known_text(cell)
    if text is None or text.startswith(UNKNOWN_PATIENT):
        return None
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text  # pandas writes 7 as 7.0 beside an empty cell


def look_alike_patients(patient_ids: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return groups of different ids that may be one patient: "P1" and "p-01", "7" and "007".

    They differ only in case, leading zeros, accents, or in what stands between letters and numbers.
    """
    groups: dict[tuple[str, ...], set[str]] = {}
    for name in patient_ids:
        if not name.startswith(UNKNOWN_PATIENT):
            groups.setdefault(_parts(name), set()).add(name)
    return tuple(tuple(sorted(names)) for names in groups.values() if len(names) > 1)


def _parts(name: str) -> tuple[str, ...]:
    """Runs of letters and of digits, in lower case and without leading zeros; the name itself where there are none."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one)).casefold()
    found = [run.lstrip("0") or run[:1] for run in re.findall(r"\d+|[^\W\d_]+", plain)]
    return tuple(found) or (name,)


def look_alike_warning(patient_ids: Iterable[str]) -> str | None:
    """Return a sentence on ids that may be one patient, None where there are none."""
    groups = look_alike_patients(patient_ids)
    if not groups:
        return None
    listed = "; ".join(" and ".join(map(repr, names)) for names in groups[:3])
    more = f", and {len(groups) - 3} more" if len(groups) > 3 else ""
    return (
        f"patients {listed}{more} count as different people, but their names differ only in case, leading zeros or "
        "punctuation: write a patient's name the same way everywhere, or heads are tested on people they were "
        "trained on and searches return the query's own patient"
    )
