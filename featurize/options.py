"""What a featurization is asked to do, and what it reports."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..store.choices import as_names
from ..store.errors import CohortError
from ..store.naming import VIEW_ALIASES, feature_key
from ..store.option_types import check_types, wanted_type
from .patches.readers import StageReport
from .patches.views import LAYOUTS, MAX_UPSAMPLING, NATIVE, resolve_view
from .workers.shards import Shard, parse_shard

PATCH_CHOICES = ("auto", "spots", "grid", "both")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)

DENSITY = "haematoxylin"
"""Embedded one-number encoder that is always stored, at the first view: the control that morphology must beat."""

Progress = Callable[[str, int, int], None]
"""Called with the slide, patches done, and patches in all."""

_GRID = re.compile(r"([1-9]\d?)x([1-9]\d?)")


def default_readers() -> int:
    """Threads that read where none are asked for: one per core."""
    return max(2, os.cpu_count() or 2)


@dataclass(frozen=True)
class FeaturizeOptions:
    """Options of `featurize`; the command line spells them the same.

    Attributes
    ----------
    views
        View names; those of the layout where empty.
    max_upsampling
        How many times a slide may be enlarged for a view.
    patches
        "spots", "grid", "both", or "auto": spots where there are any, else a grid.
    grid_um
        Sides of the tiles of each grid; the field of the first view where empty. Several grids nest where one
        stride is a multiple of another.
    overlap_um
        How far neighbouring tiles of a grid overlap.
    min_tissue
        Smallest tissue fraction of a tile.
    tokens
        Grids of patch tokens to store beside each vector, such as "7x7".
    backbones
        Registry keys or record files.
    weights
        Local weights file (or "random") by backbone key.
    precision
        Arithmetic of the forward pass; "auto": the record's, as far as the device has it.
    compiled
        Compile networks with `torch.compile`.
    mpp, pitch_um
        Declared scale of all slides: um per level-0 pixel, or spot pitch in um.
    name
        Stores the (only) backbone's features under another name (`--as`).
    batch
        Patches per forward pass; measured on the device where None.
    readers
        Threads that read and resample; several local devices share them.
    device
        "auto", "cpu", "cuda", "cuda:1", or several with commas between; on Ray "auto", "cpu" or "cuda".
    threads
        Of torch, for each network on the CPU; where None, torch's own number, or with several workers a fair share of
        the cores.
    engine
        "local", or "ray": one encoder on each GPU or share of CPUs of a Ray cluster.
    address
        Of the Ray cluster; this machine alone where None.
    shard
        "i/n": only the i-th of n equal shares of the cohort, counted from 0.
    """

    views: tuple[str, ...] = ()
    layout: str = "context"
    max_upsampling: float = MAX_UPSAMPLING
    patches: str = "auto"
    grid_um: tuple[float, ...] = ()
    overlap_um: float = 0.0
    min_tissue: float = 0.5
    tokens: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ("stain-texture",)
    weights: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    compiled: bool = False
    mpp: float | None = None
    pitch_um: float | None = None
    name: str | None = None
    batch: int | None = None
    readers: int = field(default_factory=default_readers)
    threads: int | None = None
    engine: str = LOCAL
    address: str | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("views", "tokens", "backbones"):
            object.__setattr__(self, name, as_names(getattr(self, name), name))
        object.__setattr__(self, "grid_um", _as_tiles(self.grid_um))
        _check_weights(self.weights)
        for label, value, choices in (
            ("layout", self.layout, tuple(LAYOUTS)),
            ("patches", self.patches, PATCH_CHOICES),
            ("precision", self.precision, PRECISIONS),
            ("engine", self.engine, ENGINES),
        ):
            if value not in choices:
                msg = f"{label} {value!r}: choose one of {', '.join(choices)}"
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
        _check_numbers(self)
        if self.patches == "spots" and (self.grid_um or self.overlap_um):
            msg = "grid tiles or an overlap were given, but only spots are asked for: say --patches both"
            raise CohortError(msg)
        if self.tokens and self.density_view is None:
            msg = "patch tokens are stored of plain views only, and every view has sub-tiles: leave --tokens out"
            raise CohortError(msg)
        self.token_grids  # noqa: B018  (refused now)
        self.share  # noqa: B018
        _check_engine(self)

    @property
    def view_names(self) -> tuple[str, ...]:
        """Views asked for, or the layout's."""
        return self.views or LAYOUTS[self.layout]

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices asked for, one for each worker."""
        return tuple(name.strip() for name in self.device.split(","))

    @property
    def share(self) -> Shard | None:
        """The share of the cohort that is asked for; None for all of it."""
        return None if self.shard is None else parse_shard(self.shard)

    @property
    def density_view(self) -> str | None:
        """The view at which the density control is stored: the first plain one."""
        plain = [name for name in self.view_names if resolve_view(name, slide_mpp=1.0, input_px=1).tiles == 1]
        return plain[0] if plain else None

    @property
    def grid_tiles_um(self) -> tuple[float, ...]:
        """Tile sides of the grids: as asked, else the first field that is the same on every slide, else 112 um."""
        views = [resolve_view(name, slide_mpp=1.0, input_px=1) for name in self.view_names if name != NATIVE]
        first = views[0].fov_um * views[0].tiles if views else VIEW_ALIASES["20x"][0]
        return self.grid_um or (first,)

    @property
    def token_grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each token grid."""
        found = []
        for text in self.tokens:
            match = _GRID.fullmatch(text)
            if match is None:
                msg = f"tokens {text!r}: wanted ROWSxCOLUMNS, such as 7x7"
                raise CohortError(msg)
            found.append((int(match[1]), int(match[2])))
        return tuple(dict.fromkeys(found))


def _as_tiles(value: float | Iterable[float]) -> tuple[float, ...]:
    """Sides of tiles; a number is one side."""
    return (float(value),) if isinstance(value, int | float) else tuple(value)


def _check_weights(weights: object) -> None:
    if not isinstance(weights, Mapping):
        msg = f"weights {weights!r}: wanted a dict of files by backbone, such as {{'uni': 'uni.bin'}}"
        raise CohortError(msg)


def _check_numbers(options: FeaturizeOptions) -> None:
    positive = [("um/px", options.mpp), ("spot pitch in um", options.pitch_um)]
    positive += [("grid tile in um", tile) for tile in options.grid_um]
    for tile in options.grid_um:
        if wrong := wanted_type(tile, float):
            msg = f"grid tile in um {tile!r}: wanted {wrong}"
            raise CohortError(msg)
    for label, value in positive:
        if value is not None and not 0 < value < 1e5:
            msg = f"{label} {value}: wanted a positive number"
            raise CohortError(msg)
    if not 0 <= options.overlap_um < min(options.grid_tiles_um):
        msg = (
            f"overlap of {options.overlap_um:g} um: wanted 0 or more, and less than the tile's "
            f"{min(options.grid_tiles_um):g} um"
        )
        raise CohortError(msg)
    if not 0 <= options.min_tissue <= 1:
        msg = f"smallest tissue fraction {options.min_tissue:g}: wanted a number from 0 to 1"
        raise CohortError(msg)
    if not 1 <= options.max_upsampling <= 64:
        msg = f"up-sampling limit {options.max_upsampling:g}: wanted a number from 1 to 64"
        raise CohortError(msg)
    for label, count in (("batch", options.batch), ("readers", options.readers), ("threads", options.threads)):
        if count is not None and count < 1:
            msg = f"{label} {count}: wanted 1 or more"
            raise CohortError(msg)


def _check_engine(options: FeaturizeOptions) -> None:
    several = len(options.devices) > 1
    if "" in options.devices or (several and "auto" in options.devices):
        msg = f"device {options.device!r}: name one, or each of several, such as cuda:0,cuda:1"
        raise CohortError(msg)
    if options.engine == RAY and options.device not in ("auto", "cpu", "cuda"):
        msg = f"device {options.device!r}: Ray gives each worker its own GPU or CPUs; say auto, cpu or cuda"
        raise CohortError(msg)
    if options.address is not None and options.engine != RAY:
        msg = f"the address {options.address!r} is that of a Ray cluster: say --engine ray, or leave it out"
        raise CohortError(msg)


@dataclass(frozen=True)
class SlideDone:
    """A slide that is complete in the store."""

    slide_id: str
    patches: int
    mpp: float
    mpp_source: str
    written: int
    """Feature files written now; the others were there already."""
    resumed: int = 0
    """Patches (over all passes) that an earlier, killed run had embedded already."""


@dataclass(frozen=True)
class FeaturizeReport:
    """What a run did.

    Attributes
    ----------
    failed
        (slide, cause) of slides that could not be done; the others are complete.
    left_out
        (name, reason) of the files and folders of the source that are no slide.
    left
        (slide, who) of slides that another job was at, and that were left to it.
    retried
        (slide, cause) of slides that were begun again because the worker that was at them died.
    licences
        Terms of each backbone used.
    stages
        Where the time went.
    """

    store: Path
    source: str
    done: tuple[SlideDone, ...]
    failed: tuple[tuple[str, str], ...]
    licences: dict[str, str]
    unknown_patients: tuple[str, ...]
    seconds: float
    stages: StageReport
    left: tuple[tuple[str, str], ...] = ()
    retried: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
