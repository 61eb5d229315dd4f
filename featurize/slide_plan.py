"""A first look at a slide: its scale, the fields of its views, where its tissue is, and the patches to embed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..store.arrays import Bools, Pixels
from ..store.errors import CohortError
from ..store.files.patches import Patches
from ..store.naming import SPOTS
from ..store.scale import Scale, resolve_scale, spot_pitch_px
from .options import FeaturizeOptions
from .outputs import ViewField, precut_fields, view_fields
from .slides.patches_h5 import PrecutSlide
from .slides.slide import Slide
from .slides.thumbnail import read_thumbnail
from .sources.sample import MeasuredSpots, Sample, Spots
from .sources.spot_checks import check_spots_inside, checked_array, warn_of_misplaced
from .tissue.grid import Grid, grid_centers, grid_name, nested_parents, nests
from .tissue.tissue import tissue_mask, why_blank

if TYPE_CHECKING:
    from .backbones.encoder import Encoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchSet:
    """Patches of one kind on a slide.

    Attributes
    ----------
    side_px
        Side of the tile, level-0 pixels; None for spots, whose fields depend on the view.
    """

    patches: Patches
    side_px: float | None = None


@dataclass(frozen=True)
class Look:
    """What is known of a slide before its patches are read.

    Attributes
    ----------
    thumbnail
        (h, w, 3).
    tissue
        (h, w) mask on the thumbnail.
    sets
        Patch sets by name.
    """

    scale: Scale
    measured: MeasuredSpots | None
    fields: tuple[ViewField, ...]
    thumbnail: Pixels
    tissue: Bools
    sets: dict[str, PatchSet]


def look_at(sample: Sample, slide: Slide, options: FeaturizeOptions, *, encoders: dict[str, Encoder]) -> Look:
    """Find scale, fields, tissue and patches.

    Raises
    ------
    TissuaryError
        If scale, spots, counts or pixels cannot be used, or there is no tissue for a grid.
    """
    measured = sample.read_measured() if sample.read_measured is not None else None
    spots = None if measured is None else checked_array(sample.slide_id, measured.spots)
    pitch_px = None if spots is None else _pitch_px(sample, slide, spots, declared_mpp=options.mpp)
    scale = _scale(sample, slide, pitch_px, declared_mpp=options.mpp)
    if isinstance(slide, PrecutSlide):
        fields = precut_fields(slide, scale.mpp, options, encoders=encoders)
        spots = spots or slide.spots
    else:
        fields = view_fields(slide, scale.mpp, options, encoders=encoders)
    thumbnail = read_thumbnail(slide)
    tissue = tissue_mask(thumbnail)
    wanted = options.patches
    if wanted == "auto":
        wanted = "grid" if spots is None else "spots"
        if wanted == "spots" and (options.grid_um or options.overlap_um):
            log.warning("slide %s has spots, so no grid is made: ask for one with --patches both", sample.slide_id)
    sets: dict[str, PatchSet] = {}
    if wanted in ("spots", "both"):
        sets[SPOTS] = PatchSet(_spots(sample, slide, spots))
        if measured is not None and spots is not None and not isinstance(slide, PrecutSlide):
            size_px = (slide.width, slide.height)
            warn_of_misplaced(sample.slide_id, spots, pitch_px=pitch_px, tissue=tissue, size_px=size_px)
    if wanted in ("grid", "both"):
        _check_grid(sample, slide)
        sets |= _grids(sample, slide, options, tissue=tissue, mpp=scale.mpp, thumbnail=thumbnail)
    return Look(scale, measured, fields, thumbnail, tissue, sets)


def _pitch_px(sample: Sample, slide: Slide, spots: Spots, *, declared_mpp: float | None) -> float | None:
    """Distance of neighbouring spots, level-0 pixels, where the source says their places on the array.

    Spots that do not follow their array are refused, also where the scale is known: their rows were mixed up.
    """
    if spots.array is None:
        return None
    needed = sample.pitch_um is not None and (sample.mpp or declared_mpp or slide.metadata_mpp) is None
    if len(spots.array) == 1 and not needed:  # a single spot has no pitch
        return None
    return spot_pitch_px(spots.center_px, spots.array)


def _scale(sample: Sample, slide: Slide, pitch_px: float | None, *, declared_mpp: float | None) -> Scale:
    return resolve_scale(
        sample.slide_id,
        manifest=sample.mpp,
        command_line=declared_mpp,
        metadata=slide.metadata_mpp,
        pitch_um=sample.pitch_um,
        pitch_px=pitch_px,
        declared_in=sample.declared_in,
    )


def _spots(sample: Sample, slide: Slide, spots: Spots | None) -> Patches:
    if spots is None:
        msg = f"slide {sample.slide_id}: its source has no spots; featurize it with `--patches grid`"
        raise CohortError(msg)
    check_spots_inside(sample.slide_id, spots, width_px=slide.width, height_px=slide.height)
    return Patches(spots.center_px, spots.barcode, spots.array)


def _check_grid(sample: Sample, slide: Slide) -> None:
    if isinstance(slide, PrecutSlide):
        msg = (
            f"slide {sample.slide_id}: of {sample.image} only patches are there, and no grid can be cut from them: "
            "leave --patches out, or featurize the slide itself"
        )
        raise CohortError(msg)


def _grids(
    sample: Sample, slide: Slide, options: FeaturizeOptions, *, tissue: Bools, mpp: float, thumbnail: Pixels
) -> dict[str, PatchSet]:
    """Grids by name, finest first, each with its parents in the next coarser one it nests in."""
    made: list[tuple[float, Grid, str]] = []
    for tile_um in sorted(options.grid_tiles_um):
        stride_um = tile_um - options.overlap_um
        grid = grid_centers(
            tissue,
            size_px=(slide.width, slide.height),
            mpp=mpp,
            tile_um=tile_um,
            stride_um=stride_um,
            min_tissue=options.min_tissue,
        )
        if not len(grid.center_px):
            log.warning(
                "slide %s: no tile of %g um holds %g of tissue, so that grid is left out",
                sample.slide_id, tile_um, options.min_tissue,
            )  # fmt: skip
            continue
        made.append((stride_um, grid, grid_name(stride_um, tile_um=tile_um, min_tissue=options.min_tissue)))
    if not made:
        msg = (
            f"slide {sample.slide_id}: no tile of {min(options.grid_tiles_um):g} um holds {options.min_tissue:.0%} "
            f"tissue, so there is no grid; {why_blank(thumbnail) or 'look at the slide, or lower --min-tissue'}"
        )
        raise CohortError(msg)
    sets = {}
    for position, (stride_um, grid, name) in enumerate(made):
        parent = parent_set = None
        for coarser_um, coarse, coarser_name in made[position + 1 :]:
            factor = nests(stride_um, coarser_um)
            if factor is not None:
                parent, parent_set = nested_parents(grid, coarse, factor=factor), coarser_name
                break
        barcode = np.array([f"{row}x{column}" for row, column in grid.cells], dtype=np.str_)
        side_px = (stride_um + options.overlap_um) / mpp
        sets[name] = PatchSet(Patches(grid.center_px, barcode, grid.cells, parent, parent_set), side_px)
    return sets
