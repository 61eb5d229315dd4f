"""The one view that patches hold which were cut already, and the fields that are made from them whole."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from ..store.errors import ScaleError
from .options import FeaturizeOptions
from .precut import PrecutSlide
from .reading import PRECUT_READING, Field
from .targets import ViewField, view_fields
from .views import NATIVE, View, check_upsampling, resolve_view

if TYPE_CHECKING:
    from .backbones.build import Encoder

log = logging.getLogger(__name__)


def precut_fields(
    slide: PrecutSlide, mpp: float, options: FeaturizeOptions, *, encoders: dict[str, Encoder]
) -> tuple[ViewField, ...]:
    """Fields of the views that the patches show; without views in the options, of those of its layout that they do.

    A patch spans whole level-0 pixels, so its field may differ from the view's by one of them.

    Raises
    ------
    ScaleError
        If a view was asked for that the patches do not show, none of the layout is, or a backbone needs pixels beyond
        their borders.
    """
    fov_um = slide.side_src_px * mpp
    own = f"{fov_um:.4g}um-{fov_um / slide.side_px:.3g}"
    fitting = [name for name in options.view_names if _shows(slide, name, mpp)]
    if not fitting or (options.views and len(fitting) < len(options.views)):
        wanted = ", ".join(name for name in options.view_names if name not in fitting)
        msg = (
            f"patches that were cut already hold one view, here {own} (um a side - um per pixel), and no slide to cut "
            f"{wanted} from: ask for --views 20x if that is it, for --views {own}, or featurize the slide itself"
        )
        raise ScaleError(msg)
    if len(fitting) < len(options.view_names):
        log.info("patches that were cut already hold one view: %s", ", ".join(fitting))
    fields = view_fields(slide, mpp, replace(options, views=tuple(fitting)), encoders=encoders)
    return tuple(_whole(slide, one, mpp, options) for one in fields)


def _shows(slide: PrecutSlide, name: str, mpp: float) -> bool:
    view = resolve_view(name, slide_mpp=mpp, input_px=slide.side_px)
    return name != NATIVE and view.tiles == 1 and abs(view.fov_um - slide.side_src_px * mpp) <= mpp


def _whole(slide: PrecutSlide, field: ViewField, mpp: float, options: FeaturizeOptions) -> ViewField:
    """The same view, made from all of a patch."""
    view: View = field.view
    if field.tile_px != view.side_px:
        msg = (
            f"{', '.join(field.encoders)} crops its input and would need {field.tile_px} px where a patch ends at "
            f"{view.side_px}: featurize the slide itself, or choose another backbone"
        )
        raise ScaleError(msg)
    own_mpp = max(mpp, slide.side_src_px * mpp / slide.side_px)  # neither the scanner nor the patch is finer
    factor = check_upsampling(view, own_mpp, layout=options.layout, limit=options.max_upsampling)
    whole = Field(0, slide.side_src_px / slide.side_px, float(slide.side_px), view.side_px)
    return replace(field, field=whole, upsampling=factor, reading=PRECUT_READING)
