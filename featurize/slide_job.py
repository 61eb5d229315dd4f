"""One slide into the store: scale, patches, counts, and the features of every encoder at every view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..store.arrays import Bools
from ..store.errors import CohortError, ScaleError
from ..store.naming import SPOTS
from ..store.patch_file import Patches
from .cohort import Measured, Sample, check_spots_inside
from .deposit import deposit_counts, deposit_patches, deposit_slide
from .embedding import embed
from .options import FeaturizeOptions, Progress, SlideDone
from .reading import read_thumbnail
from .scale import Scale, resolve_scale, spot_pitch_px
from .slide import Slide, open_slide
from .targets import view_fields, with_missing_targets
from .tissue import grid_centers, tissue_mask

if TYPE_CHECKING:
    from .backbones.build import Encoder


def run_slide(
    sample: Sample, root: Path, options: FeaturizeOptions, *, encoders: dict[str, Encoder], progress: Progress
) -> SlideDone:
    """Bring one slide into the store; what is there already and agrees is left alone.

    Parameters
    ----------
    root
        Folder of the store.
    encoders
        By the name their features are stored under.

    Raises
    ------
    TissuaryError
        If scale, spots, counts or pixels cannot be used, or the store holds something else under the same name.
    """
    with open_slide(sample.image) as slide:
        measured = sample.read_measured() if sample.read_measured is not None else None
        scale = _scale(sample, slide, measured, declared_mpp=options.mpp)
        fields = view_fields(slide, scale.mpp, options, encoders=encoders)
        thumbnail = read_thumbnail(slide)
        tissue = tissue_mask(thumbnail)
        sets = _patch_sets(sample, slide, measured, options=options, tissue=tissue, mpp=scale.mpp)
        record = deposit_slide(root, sample, slide, scale=scale, thumbnail=thumbnail, tissue=tissue)
        written = 0
        for name, patches in sets.items():
            deposit_patches(root, sample.slide_id, patches, name=name)
            if name == SPOTS and measured is not None:
                deposit_counts(root, sample.slide_id, measured, patches)
            wanted = [
                with_missing_targets(one, patches, root=root, slide=record, patch_set=name, encoders=encoders)
                for one in fields
            ]
            wanted = [one for one in wanted if one.targets]
            if wanted:

                def tell(done: int, total: int = len(patches)) -> None:
                    progress(sample.slide_id, done, total)

                embed(slide, patches.center_px, wanted, batch=options.batch, readers=options.readers, progress=tell)
                written += sum(len(one.targets) for one in wanted)
    return SlideDone(sample.slide_id, sum(map(len, sets.values())), scale.mpp, scale.source, written)


def _scale(sample: Sample, slide: Slide, measured: Measured | None, *, declared_mpp: float | None) -> Scale:
    pitch_px = None
    declared = sample.mpp or declared_mpp or slide.metadata_mpp
    if sample.pitch_um is not None and measured is not None and measured.spots.array is not None:
        try:
            pitch_px = spot_pitch_px(measured.spots.center_px, measured.spots.array)
        except ScaleError:
            if declared is None:  # a slide of one spot has no pitch, but its scale may be known all the same
                raise
    return resolve_scale(
        sample.slide_id,
        manifest=sample.mpp,
        command_line=declared_mpp,
        metadata=slide.metadata_mpp,
        pitch_um=sample.pitch_um,
        pitch_px=pitch_px,
    )


def _patch_sets(
    sample: Sample, slide: Slide, measured: Measured | None, *, options: FeaturizeOptions, tissue: Bools, mpp: float
) -> dict[str, Patches]:
    """The patch sets asked for, by name."""
    wanted = options.patches
    if wanted == "auto":
        wanted = "grid" if measured is None else "spots"
    sets: dict[str, Patches] = {}
    if wanted in ("spots", "both"):
        if measured is None:
            msg = f"slide {sample.slide_id}: its source has no spots; featurize it with `--patches grid`"
            raise CohortError(msg)
        spots = measured.spots
        check_spots_inside(sample.slide_id, spots, width_px=slide.width, height_px=slide.height)
        sets[SPOTS] = Patches(spots.center_px, spots.barcode, spots.array)
    if wanted in ("grid", "both"):
        stride_um = options.grid_um
        centers, cells = grid_centers(tissue, size_px=(slide.width, slide.height), stride_px=stride_um / mpp)
        if not len(centers):
            msg = f"slide {sample.slide_id}: no tissue was found on it, so there is nothing to featurize"
            raise CohortError(msg)
        barcode = np.array([f"{row}x{column}" for row, column in cells], dtype=np.str_)
        sets[f"grid-{stride_um:g}um"] = Patches(centers, barcode, cells)
    return sets
