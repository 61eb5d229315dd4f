"""Slides joined into one table: rows that belong together, or a refusal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import isclose
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from .arrays import Floats, Strings
from .errors import FingerprintError, StoreError
from .expression import read_expression
from .feature_file import FeatureHeader, read_features
from .patch_file import Patches
from .schema import expression_path, features_path
from .slide_file import SAME_MPP, SlideRecord
from .table import FeatureColumn

log = logging.getLogger(__name__)

UNEQUAL = 1.25
"""Ratio of up-sampling factors, or of um/px, from which slides under one key are joined with a warning."""


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
    for what, values in (
        ("up-sampled by factors", [header.upsampling for header in headers]),
        ("cut at um/px", [header.mpp for header in headers]),
    ):
        if max(values) > UNEQUAL * min(values):
            log.warning(
                "%s: patches of different slides were %s from %.3g to %.3g", key, what, min(values), max(values)
            )
    precisions = sorted({header.precision for header in headers})
    if len(precisions) > 1:
        log.warning("%s: computed in %s on different slides", key, " and ".join(precisions))


def join_counts(root: Path, slides: Sequence[str], *, places: Sequence[Patches]) -> tuple[csr_matrix, Strings, Floats]:
    """Counts (n, n_shared) over the genes of all slides, their names, and depth (n,) over **all** genes of each slide.

    Genes keep the order of the first slide.

    Raises
    ------
    StoreError
        If rows are not the slide's spots in their order, or the slides share no gene.
    """
    found = [read_expression(expression_path(root, slide)) for slide in slides]
    for one, place, slide in zip(found, places, slides, strict=True):
        if len(one.barcode) != len(place) or (one.barcode != place.barcode).any():
            msg = f"slide {slide}: rows of the counts are not the spots of the patch file; featurize it again"
            raise StoreError(msg)
    shared = set(found[0].genes).intersection(*(set(one.genes) for one in found))
    genes = np.array([gene for gene in found[0].genes if gene in shared], dtype=np.str_)
    if not len(genes):
        msg = f"the slides {', '.join(slides)} share no gene names: are their identifiers of one kind?"
        raise StoreError(msg)
    stacked = []
    for one in found:
        column = {gene: i for i, gene in enumerate(one.genes)}
        stacked.append(one.counts[:, [column[gene] for gene in genes]])
    depth = np.concatenate([np.asarray(one.counts.sum(axis=1), dtype=np.float64).ravel() for one in found])
    return csr_matrix(vstack(stacked)), genes, depth
