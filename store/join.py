"""Slides joined into one table: rows that belong together, or a refusal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from .arrays import Strings
from .errors import FingerprintError, StoreError
from .files.column import FeatureColumn
from .files.expression import Expression, read_expression
from .files.features import FeatureHeader, read_features
from .files.patches import Patches, read_patches
from .files.schema import expression_path, features_path, patches_path
from .files.slide import SAME_MPP, SlideRecord
from .genes import gene_union, shared_genes
from .scale import MAX_DISAGREEMENT
from .table import Table

log = logging.getLogger(__name__)

UNEQUAL = 1.25
"""Ratio of up-sampling factors from which slides under one key are joined with a warning."""


def join_features(
    root: Path, key: str, slides: Sequence[SlideRecord], *, places: Sequence[Patches], patches: str
) -> FeatureColumn:
    """Open the features of one key on every slide.

    Slides whose patches were up-sampled very differently, or whose forward pass ran in another precision, are joined
    with a warning that names them.

    Parameters
    ----------
    places
        Patches of each slide, in the order of `slides`.

    Raises
    ------
    FingerprintError
        If slides carry features of different fingerprints.
    StoreError
        If features belong to another image, scale or set of patches than the store's.
    """
    files = [read_features(features_path(root, slide.slide_id, key=key, patches=patches)) for slide in slides]
    prints = {file.header.fingerprint: slide.slide_id for file, slide in zip(files, slides, strict=True)}
    if len(prints) > 1:
        listed = ", ".join(f"{slide} {fingerprint[:12]}" for fingerprint, slide in prints.items())
        msg = (
            f"{key} was made by different encoders: {listed}. Featurize all slides with one of them, "
            "or keep the other under its own name with `--as NAME`."
        )
        raise FingerprintError(msg)
    for file, place, slide in zip(files, places, slides, strict=True):
        header = file.header
        same = (header.slide_id, header.source_digest) == (slide.slide_id, slide.source_digest)
        if not same or not isclose(header.slide_mpp, slide.mpp, rel_tol=SAME_MPP):
            msg = f"slide {slide.slide_id}: features {key} were made from another image or scale; featurize it again"
            raise StoreError(msg)
        if header.patches_digest != place.digest or len(file.features) != len(place):
            msg = f"slide {slide.slide_id}: features {key} belong to other patches than the store's; featurize it again"
            raise StoreError(msg)
    _warn_of_unequal_pixels(key, [file.header for file in files])
    return FeatureColumn(key, files[0].header.fingerprint, tuple(file.features for file in files))


def _warn_of_unequal_pixels(key: str, headers: Sequence[FeatureHeader]) -> None:
    """Say where one key means visibly different pixels on different slides."""
    for what, values, limit in (
        ("up-sampled by factors", [header.upsampling for header in headers], UNEQUAL),
        ("cut at um/px", [header.mpp for header in headers], MAX_DISAGREEMENT),
    ):
        if max(values) > limit * min(values):
            log.warning(
                "%s: patches of different slides were %s from %.3g to %.3g", key, what, min(values), max(values)
            )
    precisions = sorted({header.precision for header in headers})
    if len(precisions) > 1:
        log.warning("%s: computed in %s on different slides", key, " and ".join(precisions))


def join_slides(
    root: Path,
    keys: Sequence[str],
    slides: Sequence[SlideRecord],
    *,
    patches: str,
    control_keys: Sequence[str] = (),
    token_keys: Sequence[str] = (),
) -> tuple[Table, list[Patches]]:
    """Rows and features of slides as one table without counts, and the patches of each.

    Raises
    ------
    FingerprintError
        If slides carry features of different fingerprints under one key.
    StoreError
        If features and patches do not belong together.
    """
    places = [read_patches(patches_path(root, slide.slide_id, patches=patches)) for slide in slides]
    lengths = [len(place) for place in places]
    columns = {
        key: join_features(root, key, slides, places=places, patches=patches)
        for key in (*keys, *control_keys, *token_keys)
    }
    arrays = [place.array for place in places if place.array is not None]
    table = Table(
        slide_ids=tuple(slide.slide_id for slide in slides),
        patient_ids=tuple(slide.patient_id for slide in slides),
        slide=np.repeat(np.arange(len(slides), dtype=np.int32), lengths),
        row=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        center_um=np.concatenate([p.center_px * s.mpp for p, s in zip(places, slides, strict=True)]),
        columns={key: columns[key] for key in keys},
        control_columns={key: columns[key] for key in control_keys},
        token_columns={key: columns[key] for key in token_keys},
        barcode=np.concatenate([place.barcode for place in places]),
        array=np.concatenate(arrays).astype(np.int32) if len(arrays) == len(places) else None,
    )
    return table, places


def add_counts(table: Table, root: Path, *, places: Sequence[Patches], genes: str) -> Table:
    """A table with the counts of its slides.

    Parameters
    ----------
    places
        Patches of each slide, in the order of the table's.
    genes
        "shared", those that were measured on every slide, in the order of the first; or "all", those of any slide, in
        the order in which they are met, with `measured` telling which slide has which.

    Raises
    ------
    StoreError
        If rows are not the slide's spots in their order, or the slides share no gene.
    """
    found = [read_expression(expression_path(root, slide)) for slide in table.slide_ids]
    for one, place, slide in zip(found, places, table.slide_ids, strict=True):
        if one.slide_id not in (None, slide):
            msg = f"expression/{slide}.h5ad says that it is of slide {one.slide_id}: files of a store are never renamed"
            raise StoreError(msg)
        if len(one.barcode) != len(place) or (one.barcode != place.barcode).any():
            msg = f"slide {slide}: rows of the counts are not the spots of the patch file; featurize it again"
            raise StoreError(msg)
    names, measured = gene_union([one.genes for one in found])
    if genes == "shared":
        of_slides = shared_genes(names, measured)
        names = names[measured.all(axis=0)]
    elif genes != "all":
        msg = f"genes {genes!r}: choose shared (measured on every slide) or all (of any slide, with `measured`)"
        raise StoreError(msg)
    if not len(names):
        msg = f"the slides {', '.join(table.slide_ids)} share no gene names: are their identifiers of one kind?"
        raise StoreError(msg)
    if genes == "shared" and any(of_slides.lost):
        log.log(logging.WARNING if of_slides.is_much else logging.INFO, "%s", of_slides.words(table.slide_ids))
    depth = np.concatenate([np.asarray(one.counts.sum(axis=1), dtype=np.float64).ravel() for one in found])
    counts = csr_matrix(vstack([_over(one, names) for one in found]))
    measured_or_none = None if genes == "shared" or measured.all() else measured
    return replace(table, counts=counts, genes=names, depth=depth, measured=measured_or_none)


def _over(one: Expression, genes: Strings) -> csr_matrix:
    """Counts of a slide over a list of genes; 0 where it did not measure one."""
    column = {str(gene): i for i, gene in enumerate(one.genes)}
    at = np.array([column.get(str(gene), -1) for gene in genes])
    picked = csr_matrix(one.counts[:, at[at >= 0]])
    if (at >= 0).all():
        return picked
    where = np.flatnonzero(at >= 0)  # columns of the picked in the whole list
    return csr_matrix((picked.data, where[picked.indices], picked.indptr), shape=(picked.shape[0], len(genes)))
