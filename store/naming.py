"""Every name that becomes a path: slides, patch sets, views, feature keys. Made and checked here only."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
