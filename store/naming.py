"""Every name that becomes a path: slides, patch sets, views, feature keys. Made and checked here only."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import InvalidNameError

VIEW_ALIASES = {"20x": (112.0, 0.5), "10x": (224.0, 1.0), "5x": (448.0, 2.0)}
"""Alias of a view -> (field in um, um per px). Magnification is a label; um/px is the truth."""

NATIVE = "native"
"""The view whose field is the backbone's input at the slide's own scale."""

SPOTS = "spots"

DENSITY = "haematoxylin"
"""Backbone of the control that is one number, the haematoxylin density of a patch."""

UNKNOWN_PATIENT = "unknown:"
"""Start of the patient id of a slide whose source names no patient; the slide id follows."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+\-@: ()]*")
_NUMBER = r"\d+(?:\.\d+)?"
_KEY = re.compile(
    rf"(?P<backbone>[A-Za-z0-9_+\-]+)(?:\.(?P<pooling>[A-Za-z0-9_+\-]+))?"
    rf"@(?P<view>20x|10x|5x|native|{_NUMBER}um-{_NUMBER})(?:\.(?P<layout>(?:grid|tiles)\d+x\d+))?"
)


def check_name(name: str, what: str) -> str:
    """Return `name` if it can safely become a file name.

    Parameters
    ----------
    name
        The candidate, such as a slide id.
    what
        What it names, for the message ("slide id", "index name").

    Raises
    ------
    InvalidNameError
        If the name is empty, too long, starts with a dot, or holds a separator or a control character.
    """
    if len(name) > 200 or not _SAFE.fullmatch(name) or name != name.strip():
        msg = (
            f"{what} {name!r} cannot become a file name: use at most 200 letters, digits and . _ + - @ : ( ), "
            "starting with a letter or digit, without path separators. Rename it in the source or manifest."
        )
        raise InvalidNameError(msg)
    return name


@dataclass(frozen=True)
class FeatureKey:
    """`<backbone>[.<pooling>]@<view>[.<layout>]`, the name of one kind of features.

    Examples
    --------
    >>> FeatureKey.parse("virchow2.cls+mean@112um-0.5").view
    '112um-0.5'
    >>> str(FeatureKey("uni2-h", "20x", layout="grid7x7"))
    'uni2-h@20x.grid7x7'
    """

    backbone: str
    view: str
    pooling: str | None = None
    layout: str | None = None

    def __str__(self) -> str:
        pooling = f".{self.pooling}" if self.pooling else ""
        layout = f".{self.layout}" if self.layout else ""
        return f"{self.backbone}{pooling}@{self.view}{layout}"

    @property
    def encoder(self) -> str:
        """The part before the `@`: backbone and pooling."""
        return str(self).split("@", 1)[0]

    @property
    def size(self) -> tuple[float, float] | None:
        """Field in um and um per px of the view; None of `native`, whose field differs by slide."""
        if self.view == NATIVE:
            return None
        if self.view in VIEW_ALIASES:
            return VIEW_ALIASES[self.view]
        field_um, mpp = self.view.split("um-")
        return float(field_um), float(mpp)

    @classmethod
    def parse(cls, text: str) -> FeatureKey:
        """Read a key.

        Raises
        ------
        InvalidNameError
            If `text` does not follow the grammar.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            msg = (
                f"feature key {text!r} does not read as <backbone>[.<pooling>]@<view>[.<layout>], "
                "for example stain-texture@20x, virchow2.cls+mean@112um-0.5 or uni2-h@20x.grid7x7"
            )
            raise InvalidNameError(msg)
        return cls(match["backbone"], match["view"], match["pooling"], match["layout"])


def feature_key(encoder: str, view: str, *, layout: str | None = None) -> str:
    """Compose and check the key of `encoder` (backbone, optionally with `.pooling`) at `view`."""
    suffix = f".{layout}" if layout else ""
    return str(FeatureKey.parse(f"{encoder}@{view}{suffix}"))


def field_um(view: str) -> tuple[float, str]:
    """Order of views: by the side of their field in um; `native`, whose field differs by slide, comes first."""
    size = FeatureKey("any", view).size
    return (size[0] if size else 0.0), view


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
