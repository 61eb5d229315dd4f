"""The door to a store: its catalogue, features, tables, neighbourhoods and search."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Floats
from .catalog import Entry, load_catalog, to_frame
from .errors import StoreError
from .feature_file import FeatureHeader, read_features
from .freshness import check_fresh, only_index
from .index_file import load_index, save_index
from .join import join_counts, join_features
from .naming import SPOTS, UNKNOWN_PATIENT
from .neighbours import Neighbourhood, nearest_in_tissue
from .patch_file import Patches, read_patches
from .schema import features_path, index_path, patches_path, slide_path
from .search import Hit, IndexRecord, SearchIndex, allowed_rows, build_index, find, query_vectors
from .slide_file import SlideRecord, read_slide
from .table import FeatureColumn, Table

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)


class Store:
    """A folder of features at rest.

    Parameters
    ----------
    path
        The folder; `featurize` makes it.

    Examples
    --------
    >>> store = Store("cohort.store")                                # doctest: +SKIP
    >>> store.features("stain-texture@20x", "C2").shape              # doctest: +SKIP
    (187, 392)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """One `Entry` per file, as the store was when it was first asked."""
        return load_catalog(self.path)

    @property
    def catalog(self) -> polars.DataFrame:
        """The entries as a polars frame, with the patient of each slide."""
        return to_frame(self.entries)

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Slides of the store, sorted."""
        return tuple(sorted(e.slide_id for e in self.entries if e.kind == "slide" and not e.problem))

    @property
    def patch_sets(self) -> tuple[str, ...]:
        """Names of the patch sets, sorted."""
        return tuple(sorted({e.patches for e in self.entries if e.kind == "patches"}))

    @property
    def default_patches(self) -> str:
        """The only patch set, or `spots` where there are several."""
        return self.patch_sets[0] if len(self.patch_sets) == 1 else SPOTS

    def keys(self, patches: str = SPOTS) -> tuple[str, ...]:
        """Feature keys of a patch set, sorted."""
        return tuple(sorted({e.key for e in self.entries if e.kind == "features" and e.patches == patches}))

    def slides_with(self, keys: Sequence[str], *, patches: str = SPOTS, expression: bool = False) -> tuple[str, ...]:
        """Slides that have all of `keys` (and counts, where asked), sorted."""
        whole = [entry for entry in self.entries if not entry.problem]  # a damaged file costs only its slide
        sets = [{e.slide_id for e in whole if (e.patches, e.key) == (patches, key)} for key in keys]
        if expression:
            sets.append({e.slide_id for e in whole if e.kind == "expression"})
        return tuple(sorted(set(self.slide_ids).intersection(*sets)))

    def slide(self, slide_id: str) -> SlideRecord:
        """Geometry and scale of a slide."""
        record = read_slide(slide_path(self.path, slide_id))
        if record.slide_id != slide_id:
            msg = f"slides/{slide_id}.h5 says that it is slide {record.slide_id}: files of a store are never renamed"
            raise StoreError(msg)
        return record

    def patches(self, slide_id: str, *, patches: str = SPOTS) -> Patches:
        """Centres of a slide's patches."""
        return read_patches(patches_path(self.path, slide_id, patches=patches))

    def features(self, key: str, slide_id: str, *, patches: str = SPOTS) -> Floats:
        """Features of one slide, memory-mapped: (n, dim) or (n, tokens, dim)."""
        return read_features(features_path(self.path, slide_id, key=key, patches=patches)).features

    def header(self, key: str, slide_id: str, *, patches: str = SPOTS) -> FeatureHeader:
        """What the features of one slide say of themselves: fingerprint, record, scale."""
        return read_features(features_path(self.path, slide_id, key=key, patches=patches)).header

    def table(
        self,
        keys: str | Sequence[str],
        *,
        slides: Sequence[str] | None = None,
        patches: str = SPOTS,
        expression: bool = True,
        control_keys: Sequence[str] = (),
    ) -> Table:
        """Join slides into one table of rows.

        Parameters
        ----------
        keys
            Feature keys, such as `["stain-texture@20x", "stain-texture@10x"]`.
        slides
            Slides in the order wanted; all that have everything, sorted, where not given.
        expression
            Whether to read counts, over the genes that were measured on every slide.
        control_keys
            Feature keys that ride along for controls, apart from `features()`.

        Raises
        ------
        StoreError
            If no slide has all of it, or rows of features, patches and counts do not belong together.
        FingerprintError
            If slides carry features of different fingerprints under one key.
        """
        keys = [keys] if isinstance(keys, str) else list(keys)
        chosen = tuple(slides) if slides is not None else self.slides_with(keys, patches=patches, expression=expression)
        if not chosen or not keys:
            have = ", ".join(self.keys(patches)) or "no features"
            wanted = f"{', '.join(keys)}{' with counts' if expression else ''}"
            msg = f"{self.path}: no slide has {wanted} ({patches}: {have})"
            raise StoreError(msg)
        records = [self.slide(slide_id) for slide_id in chosen]
        places = [self.patches(slide_id, patches=patches) for slide_id in chosen]
        lengths = [len(place) for place in places]
        columns = {
            key: join_features(self.path, key, records, places=places, patches=patches)
            for key in (*keys, *control_keys)
        }
        counts, genes, depth = (
            join_counts(self.path, chosen, places=places) if expression else (None, np.array([], np.str_), None)
        )
        table = Table(
            slide_ids=chosen,
            patient_ids=tuple(record.patient_id for record in records),
            slide=np.repeat(np.arange(len(chosen), dtype=np.int32), lengths),
            row=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            center_um=np.concatenate([p.center_px * r.mpp for p, r in zip(places, records, strict=True)]),
            columns={key: columns[key] for key in keys},
            control_columns={key: columns[key] for key in control_keys},
            barcode=np.concatenate([place.barcode for place in places]),
        )
        if not expression:
            return table
        counts, genes, depth = join_counts(self.path, chosen, places=places)
        return replace(table, counts=counts, genes=genes, depth=depth)

    def neighbours(
        self, slide_id: str, k: int, *, patches: str = SPOTS, radius_um: float = np.inf, self_included: bool = False
    ) -> Neighbourhood:
        """The k nearest patches of every patch of a slide, in um, ties by row."""
        center_um = self.patches(slide_id, patches=patches).center_px * self.slide(slide_id).mpp
        return nearest_in_tissue(center_um, k, radius_um=radius_um, self_included=self_included)

    def build_index(
        self, key: str, *, patches: str = SPOTS, standardised: str = "cohort", name: str | None = None
    ) -> SearchIndex:
        """Index every slide that has `key`, and keep the index in the store."""
        table = self.table(key, patches=patches, expression=False)
        record = IndexRecord(
            name=name or f"{patches}.{key}",
            key=key,
            patches=patches,
            fingerprint=table.columns[key].fingerprint,
            standardised=standardised,
            metric="cosine",
            slide_ids=table.slide_ids,
            patient_ids=table.patient_ids,
            patches_digests=tuple(self.patches(slide, patches=patches).digest for slide in table.slide_ids),
            mpp=tuple(self.slide(slide).mpp for slide in table.slide_ids),
        )
        index = build_index(table, record)
        save_index(index_path(self.path, record.name), index)
        return index

    def search(
        self,
        slide_id: str,
        patch: int,
        *,
        k: int = 10,
        key: str | None = None,
        patches: str = SPOTS,
        exclude: str | None = None,
    ) -> tuple[Hit, ...]:
        """Look-alikes of one patch across the cohort; the patch itself is never among them.

        Parameters
        ----------
        patch
            Row of the patch on its slide.
        key
            Feature key; the only one that is indexed where not given.
        exclude
            "patient" or "slide": leave the query's own out, inside the search, so that k hits still come back.

        Raises
        ------
        StoreError
            If there is no index of `key`, or it is older than the features.
        """
        key = key or only_index(self.path, patches)
        index = load_index(index_path(self.path, f"{patches}.{key}"))
        if slide_id not in index.record.slide_ids:
            msg = f"slide {slide_id!r} is not in the index of {key}: run `tissuary index {self.path}` again"
            raise StoreError(msg)
        check_fresh(self, index)
        number = index.record.slide_ids.index(slide_id)
        part = self.features(key, slide_id, patches=patches)
        if not 0 <= patch < len(part):
            msg = f"slide {slide_id!r} has patches 0 to {len(part) - 1}, not {patch}"
            raise StoreError(msg)
        if exclude == "patient" and index.record.patient_ids[number].startswith(UNKNOWN_PATIENT):
            log.warning("slide %s: its patient is unknown, so only the slide itself can be left out", slide_id)
        column = FeatureColumn(key, index.record.fingerprint, (part,))
        query = query_vectors(index, column, np.array([patch], dtype=np.int32), slide=number)[0]
        return find(index, query, k, allowed=allowed_rows(index, slide=number, patch=patch, exclude=exclude))
