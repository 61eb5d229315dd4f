"""Slides joined into one table: rows that belong together, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from .arrays import Floats, Strings
from .errors import FingerprintError, StoreError
from .expression import read_expression
from .feature_file import read_features
from .patch_file import Patches
from .schema import expression_path, features_path
from .table import FeatureColumn


def join_features(
    root: Path, key: str, slides: Sequence[str], *, places: Sequence[Patches], patches: str
) -> FeatureColumn:
    """Open the features of one key on every slide.

    Parameters
    ----------
    places
        Patches of each slide, in the order of `slides`.

    Raises
    ------
    FingerprintError
        If slides carry features of different fingerprints.
    StoreError
        If features belong to other patches than the store's.
    """
    files = [read_features(features_path(root, slide, key=key, patches=patches)) for slide in slides]
    prints = {file.header.fingerprint: slide for file, slide in zip(files, slides, strict=True)}
    if len(prints) > 1:
        listed = ", ".join(f"{slide} {fingerprint[:12]}" for fingerprint, slide in prints.items())
        msg = (
            f"{key} was made by different encoders: {listed}. Featurize all slides with one of them, "
            "or keep the other under its own name with `--as NAME`."
        )
        raise FingerprintError(msg)
    for file, place, slide in zip(files, places, slides, strict=True):
        if file.header.patches_digest != place.digest or len(file.features) != len(place):
            msg = f"slide {slide}: features {key} belong to other patches than the store's; featurize it again"
            raise StoreError(msg)
    return FeatureColumn(key, files[0].header.fingerprint, tuple(file.features for file in files))


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
