"""Views: a physical field at a physical resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...store.errors import InvalidNameError, ScaleError
from ...store.naming import VIEW_ALIASES

MAX_UPSAMPLING = 2.0
"""Beyond this a view shows interpolation, not tissue, and is refused (except in the `zoom` layout)."""

UPSAMPLING_SLACK = 1.01
"""Factor by which the limit may be exceeded: um/px of tags and of spot pitches are rounded."""

NATIVE = "native"

LAYOUTS = {
    "context": ("20x", "10x", "5x"),
    "zoom": ("112um-0.5", "56um-0.25", "28um-0.125"),
    "aligned": ("5x", "10x.tiles2x2", "20x.tiles4x4"),
}
"""Layout -> its views. `zoom` is digital by definition, so exempt from the up-sampling limit.

`aligned` shows one region of 448 um as one tile, 2 x 2 and 4 x 4 sub-tiles (M2ORT).
"""

_VIEW = re.compile(r"(?P<fov>\d+(?:\.\d+)?)um-(?P<mpp>\d+(?:\.\d+)?)")
_TILES = re.compile(r"(?P<plain>.+)\.tiles(?P<rows>[1-9]\d?)x(?P<columns>[1-9]\d?)")


@dataclass(frozen=True)
class View:
    """A square field around a centre.

    Attributes
    ----------
    name
        Alias or `<um>um-<um per px>`, without its layout.
    fov_um
        Side of the field; where there are sub-tiles, of each of them.
    mpp
        um per pixel of the patch.
    tiles
        Sub-tiles per side around the centre; 1 for a plain patch.
    """

    name: str
    fov_um: float
    mpp: float
    tiles: int = 1

    @property
    def side_px(self) -> int:
        """Side of the patch (or of each sub-tile) in its own pixels."""
        return max(1, round(self.fov_um / self.mpp))

    @property
    def layout(self) -> str | None:
        """The part of a feature key that tells sub-tiles from a plain patch."""
        return f"tiles{self.tiles}x{self.tiles}" if self.tiles > 1 else None

    @property
    def canonical(self) -> str:
        """The view in um, so that an alias and its meaning share a fingerprint; `native` stays `native`."""
        plain = f"{self.fov_um:g}um-{self.mpp:g}" if self.name in VIEW_ALIASES else self.name
        return f"{plain}.{self.layout}" if self.layout else plain


def resolve_view(name: str, *, slide_mpp: float, input_px: int) -> View:
    """Give a view's name its physical meaning on one slide.

    Parameters
    ----------
    name
        `20x`, `10x`, `5x`, `native`, or `<um>um-<um per px>`; with `.tiles4x4`, 4 x 4 such patches side by side.
    slide_mpp
        um per level-0 pixel; `native` takes its resolution from it.
    input_px
        Side of the backbone's input; `native` takes its size from it.

    Raises
    ------
    InvalidNameError
        If the name is none of these.
    """
    tiled = _TILES.fullmatch(name)
    if tiled is not None:
        if tiled["rows"] != tiled["columns"]:
            msg = f"view {name!r}: sub-tiles fill a square, so rows and columns must be equal, as in 20x.tiles4x4"
            raise InvalidNameError(msg)
        return replace(resolve_view(tiled["plain"], slide_mpp=slide_mpp, input_px=input_px), tiles=int(tiled["rows"]))
    if name == NATIVE:
        return View(NATIVE, fov_um=input_px * slide_mpp, mpp=slide_mpp)
    if name in VIEW_ALIASES:
        fov_um, mpp = VIEW_ALIASES[name]
        return View(name, fov_um, mpp)
    match = _VIEW.fullmatch(name)
    if match is None or not float(match["fov"]) or not float(match["mpp"]):
        known = ", ".join([*VIEW_ALIASES, NATIVE])
        msg = f"view {name!r} is none of {known} and does not read as <um>um-<um per px>, for example 112um-0.5"
        raise InvalidNameError(msg)
    return View(name, float(match["fov"]), float(match["mpp"]))


def upsampling(view: View, slide_mpp: float) -> float:
    """How many times finer the view's pixels are than the slide's; 1 where they are coarser."""
    return max(1.0, slide_mpp / view.mpp)


def check_upsampling(view: View, slide_mpp: float, *, layout: str, limit: float = MAX_UPSAMPLING) -> float:
    """Return the up-sampling factor, or refuse a view that the slide is too coarse for.

    Raises
    ------
    ScaleError
        If the slide would be enlarged more than `limit` times, outside the `zoom` layout.
    """
    factor = upsampling(view, slide_mpp)
    if factor > limit * UPSAMPLING_SLACK and layout != "zoom":
        fitting = f"{max(view.fov_um, 48 * slide_mpp):.0f}um-{slide_mpp:.1f}"  # 48 px hold some texture
        msg = (
            f"view {view.name} wants {view.mpp:g} um/px but the slide has {slide_mpp:.3g} um/px: it would be "
            f"up-sampled {factor:.2f} times (limit {limit:g}). Ask for a view the slide can give, such as "
            f"`--views {fitting}` or `--views native`, or allow it with --max-upsampling."
        )
        raise ScaleError(msg)
    return factor
