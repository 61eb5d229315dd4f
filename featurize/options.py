"""What a featurization is asked to do, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..store.errors import CohortError
from ..store.naming import VIEW_ALIASES, feature_key
from .views import LAYOUTS, NATIVE, resolve_view

PATCH_CHOICES = ("auto", "spots", "grid", "both")

DENSITY = "haematoxylin"
"""Embedded one-number encoder that is always stored, at the first view: the control that morphology must beat."""

Progress = Callable[[str, int, int], None]
"""Called with the slide, patches done, and patches in all."""


@dataclass(frozen=True)
class FeaturizeOptions:
    """Options of `featurize`; the command line spells them the same.

    Attributes
    ----------
    views
        View names; those of the layout where empty.
    patches
        "spots", "grid", "both", or "auto": spots where there are any, else a grid.
    backbones
        Registry keys or record files.
    weights
        Local weights file (or "random") by backbone key.
    mpp, pitch_um
        Declared scale of all slides: um per level-0 pixel, or spot pitch in um.
    name
        Stores the (only) backbone's features under another name (`--as`).
    batch
        Patches per forward pass.
    readers
        Threads that read and resample.
    """

    views: tuple[str, ...] = ()
    layout: str = "context"
    patches: str = "auto"
    backbones: tuple[str, ...] = ("stain-texture",)
    weights: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    mpp: float | None = None
    pitch_um: float | None = None
    name: str | None = None
    batch: int = 32
    readers: int = 2

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            msg = f"layout {self.layout!r}: choose one of {', '.join(LAYOUTS)}"
            raise CohortError(msg)
        if self.patches not in PATCH_CHOICES:
            msg = f"patches {self.patches!r}: choose one of {', '.join(PATCH_CHOICES)}"
            raise CohortError(msg)
        if self.name is not None:
            feature_key(self.name, self.view_names[0])  # refused now, and not after the first slide was read
        for name in self.view_names:
            resolve_view(name, slide_mpp=1.0, input_px=224)
        if self.name == DENSITY:
            msg = f"the name {DENSITY!r} is kept for the density control: choose another with `--as`"
            raise CohortError(msg)
        if self.name is not None and len(self.backbones) > 1:
            msg = f"a name ({self.name!r}) can be given to one backbone at a time, not to {len(self.backbones)}"
            raise CohortError(msg)
        for label, value in (("um/px", self.mpp), ("spot pitch in um", self.pitch_um)):
            if value is not None and not 0 < value < 1e5:
                msg = f"{label} {value}: wanted a positive number"
                raise CohortError(msg)

    @property
    def grid_um(self) -> float:
        """Stride of a grid: the field of the first view that has the same field on every slide, else 112 um."""
        fields = [resolve_view(name, slide_mpp=1.0, input_px=1).fov_um for name in self.view_names if name != NATIVE]
        return fields[0] if fields else VIEW_ALIASES["20x"][0]

    @property
    def view_names(self) -> tuple[str, ...]:
        """Views asked for, or the layout's."""
        return self.views or LAYOUTS[self.layout]


@dataclass(frozen=True)
class SlideDone:
    """A slide that is complete in the store."""

    slide_id: str
    patches: int
    mpp: float
    mpp_source: str
    written: int
    """Feature files written now; the others were there already."""


@dataclass(frozen=True)
class FeaturizeReport:
    """What a run did.

    Attributes
    ----------
    failed
        (slide, cause) of slides that could not be done; the others are complete.
    licences
        Terms of each backbone used.
    """

    store: Path
    source: str
    done: tuple[SlideDone, ...]
    failed: tuple[tuple[str, str], ...]
    licences: dict[str, str]
    unknown_patients: tuple[str, ...]
    seconds: float
