"""Which feature files a slide still lacks: every encoder at every view, cut as few times as possible."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.errors import DamagedFileError, FingerprintError, ScaleError, StoreError
from ..store.files.features import FeatureHeader, read_features
from ..store.files.patches import Patches
from ..store.files.same_encoder import KeyFingerprints, KeyHolder, other_encoder
from ..store.files.schema import features_path
from ..store.files.slide import SAME_MPP, SlideRecord
from ..store.naming import feature_key
from .options import DENSITY, FeaturizeOptions
from .patches.field import PRECUT_READING, READING, PatchField, Readable, plan_field
from .patches.views import NATIVE, View, check_upsampling, resolve_view
from .slides.patches_h5 import PrecutSlide

if TYPE_CHECKING:
    from .backbones.encoder import Encoder
    from .backbones.record import BackboneRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureOutput:
    """One feature file to be written.

    Attributes
    ----------
    shape
        (n, dim), or (n, tokens, dim) for a token grid or sub-tiles.
    grid
        Rows and columns of the token grid; None for the vector of a patch or of each sub-tile.
    """

    path: Path
    encoder: Encoder
    header: FeatureHeader
    shape: tuple[int, ...]
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class ViewField:
    """A view, the way it is cut from this slide, and who wants it.

    Attributes
    ----------
    field
        Of the whole patch, with all its sub-tiles.
    tile_px
        Side of a (sub-)tile as the encoder gets it; more than the view's where a transform crops.
    encoders
        Names that features are stored under.
    grids
        Token grids wanted beside the vectors.
    reading
        How its pixels are cut, as part of the fingerprint.
    """

    view: View
    field: PatchField
    upsampling: float
    tile_px: int
    encoders: tuple[str, ...]
    grids: tuple[tuple[int, int], ...] = ()
    reading: str = READING


def view_fields(
    slide: Readable, mpp: float, options: FeaturizeOptions, *, encoders: dict[str, Encoder]
) -> tuple[ViewField, ...]:
    """One entry per different field of pixels; encoders share it unless `native` depends on their input size.

    Raises
    ------
    ScaleError
        If the slide is too coarse for a view.
    """
    fields: dict[tuple[str, int], ViewField] = {}
    for name in options.view_names:
        for stored_as, encoder in encoders.items():
            if stored_as == DENSITY and name != options.density_view:
                continue
            view = resolve_view(name, slide_mpp=mpp, input_px=encoder.record.input_px)
            factor = check_upsampling(view, mpp, layout=options.layout, limit=options.max_upsampling)
            tile = _with_margin(view, encoder.record)
            at = (name, tile.side_px)
            users = (*(fields[at].encoders if at in fields else ()), stored_as)
            field = plan_field(slide, _with_all_tiles(view, tile), mpp=mpp)
            grids = options.token_grids if view.tiles == 1 else ()
            fields[at] = ViewField(view, field, factor, tile.side_px, users, grids)
    return tuple(fields.values())


def _with_margin(view: View, record: BackboneRecord) -> View:
    """What is read for a tile: more than the view where the transform crops, so that the network sees all of it."""
    if record.crop_from_px is None:
        return replace(view, tiles=1)
    return replace(view, fov_um=view.fov_um * record.crop_from_px / record.input_px, tiles=1)


def _with_all_tiles(view: View, tile: View) -> View:
    """The square that holds all sub-tiles; its pixels divide evenly among them."""
    if view.tiles == 1:
        return tile
    side_px = (view.tiles - 1) * view.side_px + tile.side_px
    return replace(tile, fov_um=side_px * view.fov_um / view.side_px, mpp=view.fov_um / view.side_px)


Wanted = tuple[ViewField, tuple[FeatureOutput, ...]]
"""A field, and the files that are made from it."""


def check_keys(keys: KeyFingerprints, options: FeaturizeOptions, encoders: Mapping[str, Encoder]) -> None:
    """Refuse a run before its first slide if the store holds features of another encoder under one of its keys.

    Raises
    ------
    FingerprintError
        If it does; the message names `--as`.
    """
    refused: dict[str, FingerprintError] = {}
    for name in options.view_names:
        for stored_as, encoder in encoders.items():
            if stored_as == DENSITY and name != options.density_view:
                continue
            view = resolve_view(name, slide_mpp=1.0, input_px=encoder.record.input_px)
            for _, layout, key in _outputs(view, stored_as, encoder, options.token_grids):
                prints = {_fingerprint(view, layout, encoder, reading) for reading in (READING, PRECUT_READING)}
                try:
                    keys.check(key, prints, encoder.record.to_dict())
                except FingerprintError as error:
                    refused[key] = error
    if not refused:
        return
    first, *others = refused.values()
    if others:
        first.add_note(f"The same holds for {', '.join(list(refused)[1:])}.")
    raise first


def check_fields(
    keys: KeyFingerprints,
    fields: Sequence[ViewField],
    encoders: Mapping[str, Encoder],
    *,
    slide_id: str,
    patch_sets: Collection[str],
) -> None:
    """Refuse a slide, before anything of it is written, if a key holds features of another encoder or reading.

    Raises
    ------
    FingerprintError
        If one does.
    """
    for field in fields:
        for stored_as in field.encoders:
            encoder = encoders[stored_as]
            record = encoder.record.to_dict()
            for _, layout, key in _outputs(field.view, stored_as, encoder, field.grids):
                fingerprint = _fingerprint(field.view, layout, encoder, field.reading)
                for patches in patch_sets:
                    keys.check(key, {fingerprint}, record, slide_id=slide_id, patches=patches)


def missing_targets(
    fields: Sequence[ViewField],
    patches: Patches,
    *,
    root: Path,
    slide: SlideRecord,
    patch_set: str,
    encoders: dict[str, Encoder],
) -> tuple[Wanted, ...]:
    """Each field with its feature files that are not in the store yet, or damaged there; complete fields are left out.

    Raises
    ------
    FingerprintError
        If the slide's file of that key was made by another encoder.
    StoreError
        If it was made from another image, scale or set of patches, is of a newer format, or cannot be opened now.
    """
    found = ((one, _missing(one, patches, root, slide, patch_set, encoders)) for one in fields)
    return tuple((one, targets) for one, targets in found if targets)


def headers_of(wanted: Sequence[Wanted]) -> dict[str, FeatureHeader]:
    """Header of each file that is to be made of a slide, by its feature key."""
    return {target.path.parent.name: target.header for _, targets in wanted for target in targets}


def _missing(
    field: ViewField, patches: Patches, root: Path, slide: SlideRecord, patch_set: str, encoders: dict[str, Encoder]
) -> tuple[FeatureOutput, ...]:
    targets = []
    for stored_as in field.encoders:
        encoder = encoders[stored_as]
        for grid, layout, key in _outputs(field.view, stored_as, encoder, field.grids):
            header = _header(field, encoder, slide, patches, layout=layout)
            path = features_path(root, slide.slide_id, key=key, patches=patch_set)
            if not _is_there(path, header):
                targets.append(FeatureOutput(path, encoder, header, _shape(field, encoder, len(patches), grid), grid))
    return tuple(targets)


def _outputs(
    view: View, stored_as: str, encoder: Encoder, grids: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int] | None, str | None, str]]:
    """Token grid (None for the plain vectors), layout and feature key of each file that an encoder makes of a view."""
    tokens = view.tiles == 1 and encoder.record.token_grid is not None and stored_as != DENSITY
    for grid in (None, *(grids if tokens else ())):
        layout = view.layout if grid is None else f"grid{grid[0]}x{grid[1]}"
        yield grid, layout, feature_key(stored_as, view.name, layout=layout)


def _fingerprint(view: View, layout: str | None, encoder: Encoder, reading: str) -> str:
    seen = view.canonical if view.layout or not layout else f"{view.canonical}.{layout}"
    return encoder.fingerprint_for(f"{seen}; {reading}")


def _shape(field: ViewField, encoder: Encoder, n: int, grid: tuple[int, int] | None) -> tuple[int, ...]:
    if grid is not None:
        return (n, grid[0] * grid[1], encoder.token_dim)
    return (n, encoder.dim) if field.view.tiles == 1 else (n, field.view.tiles**2, encoder.dim)


def _header(
    field: ViewField, encoder: Encoder, slide: SlideRecord, patches: Patches, *, layout: str | None
) -> FeatureHeader:
    return FeatureHeader(
        slide_id=slide.slide_id,
        fingerprint=_fingerprint(field.view, layout, encoder, field.reading),
        record=encoder.record.to_dict(),
        mpp=field.view.mpp,
        fov_um=field.view.fov_um,
        upsampling=field.upsampling,
        precision=encoder.record.precision,
        patches_digest=patches.digest,
        slide_mpp=slide.mpp,
        source_digest=slide.source_digest,
    )


def _is_there(path: Path, header: FeatureHeader) -> bool:
    """Whether the file that would be written exists, undamaged."""
    if not path.exists():
        return False
    try:
        found = read_features(path).header
    except DamagedFileError as error:
        log.warning("%s; it is written anew", error)
        return False
    if found.fingerprint != header.fingerprint:
        raise other_encoder(KeyHolder(path, found.fingerprint, found.record), header.fingerprint, header.record)
    same = (found.patches_digest, found.source_digest) == (header.patches_digest, header.source_digest)
    if not same or not isclose(found.slide_mpp, header.slide_mpp, rel_tol=SAME_MPP):
        msg = (
            f"{path} was made from another image, scale or set of patches than slide {header.slide_id} has now: "
            "delete it and run again"
        )
        raise StoreError(msg)
    return True


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
    whole = PatchField(0, slide.side_src_px / slide.side_px, float(slide.side_px), view.side_px)
    return replace(field, field=whole, upsampling=factor, reading=PRECUT_READING)
