"""The door to a store: its catalogue, features, tables, neighbourhoods and search."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Floats
from .catalog import Entry, load_catalog, to_frame
from .errors import StoreError
from .feature_file import FeatureFile, FeatureHeader, read_features
from .index_record import BuildOptions
from .join import add_counts, join_slides
from .look_alikes import LookAlikes
from .lookup import open_index, search_patch, search_slide, update_index
from .naming import SPOTS
from .neighbours import Neighbourhood
from .nested import children, parents_between
from .patch_file import Patches, read_patches
from .places import Places
from .schema import features_path, patches_path, slide_path
from .search import Hit, SearchIndex
from .selection import holds, slide_frame
from .slide_file import SlideRecord, read_slide
from .store_folder import check_store
from .table import Table

if TYPE_CHECKING:
    import polars

log = logging.getLogger(__name__)


class Store:
    """A folder of features at rest.

    Parameters
    ----------
    path
        The folder; `featurize` makes it.

    Raises
    ------
    StoreError
        If the path is no store; the message says what it is, and which store may have been meant.

    Examples
    --------
    >>> store = Store("cohort.store")                                # doctest: +SKIP
    >>> store.features("stain-texture@20x", "C2").shape              # doctest: +SKIP
    (187, 392)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_store(self.path)

    def __fspath__(self) -> str:
        """The folder, so that whatever takes a path takes a store."""
        return str(self.path)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """One `Entry` per file, as the store was when it was first asked."""
        return load_catalog(self.path)

    @property
    def catalog(self) -> polars.DataFrame:
        """The entries as a polars frame, with the patient of each slide."""
        return to_frame(self.entries)

    @property
    def slide_frame(self) -> polars.DataFrame:
        """One line a slide, for choosing among them; see `tissuary.store.selection.slide_frame`."""
        return slide_frame(self.entries)

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
        return self._features(key, slide_id, patches=patches).features

    def header(self, key: str, slide_id: str, *, patches: str = SPOTS) -> FeatureHeader:
        """What the features of one slide say of themselves: fingerprint, record, scale."""
        return self._features(key, slide_id, patches=patches).header

    def _features(self, key: str, slide_id: str, *, patches: str) -> FeatureFile:
        path = features_path(self.path, slide_id, key=key, patches=patches)
        file = read_features(path)
        if file.header.slide_id != slide_id:
            msg = f"{path} says that it is of slide {file.header.slide_id}: files of a store are never renamed"
            raise StoreError(msg)
        return file

    def table(  # noqa: PLR0913
        self,
        keys: str | Sequence[str],
        *,
        slides: Sequence[str] | None = None,
        where: polars.Expr | None = None,
        patches: str = SPOTS,
        expression: bool = True,
        genes: str = "shared",
        control_keys: Sequence[str] = (),
        token_keys: Sequence[str] = (),
    ) -> Table:
        """Join slides into one table of rows.

        Parameters
        ----------
        keys
            Feature keys, such as `["stain-texture@20x", "stain-texture@10x"]`.
        slides
            Slides in the order wanted; all that have everything, sorted, where not given.
        where
            Expression over the columns of `slide_frame`, which chooses slides, or of `Table.spots`, which chooses rows.
        expression
            Whether to read counts.
        genes
            "shared", the genes that were measured on every slide, or "all" with `Table.measured`.
        control_keys
            Feature keys that ride along for controls, apart from `features()`.
        token_keys
            Keys of token grids and sub-tiles, for heads that mix tokens, apart from `features()`.

        Raises
        ------
        StoreError
            If no slide has all of it, or rows of features, patches and counts do not belong together.
        FingerprintError
            If slides carry features of different fingerprints under one key.
        """
        keys = [keys] if isinstance(keys, str) else list(keys)
        chosen = tuple(slides) if slides is not None else self.slides_with(keys, patches=patches, expression=expression)
        of_slides = where is not None and set(where.meta.root_names()) <= set(self.slide_frame.columns)
        if where is not None and of_slides:
            frame = self.slide_frame
            kept = set(frame["slide_id"].to_numpy()[holds(where, frame)])
            chosen = tuple(slide for slide in chosen if slide in kept)
            if not chosen:
                msg = f"{self.path}: `where` keeps none of the slides that have {', '.join(keys)}: {where}"
                raise StoreError(msg)
        if len(set(chosen)) < len(chosen):
            twice = sorted({slide for slide in chosen if chosen.count(slide) > 1})
            msg = f"slides {', '.join(twice)} are asked for more than once: give each slide once"
            raise StoreError(msg)
        if not chosen or not keys:
            have = ", ".join(self.keys(patches)) or "no features"
            wanted = f"{', '.join(keys)}{' with counts' if expression else ''}"
            msg = f"{self.path}: no slide has {wanted} ({patches}: {have})"
            raise StoreError(msg)
        records = [self.slide(slide_id) for slide_id in chosen]
        table, places = join_slides(
            self.path, keys, records, patches=patches, control_keys=control_keys, token_keys=token_keys
        )
        if expression:
            table = add_counts(table, self.path, places=places, genes=genes)
        return table if where is None or of_slides else table.where(where)

    def neighbours(
        self, slide_id: str, k: int, *, patches: str = SPOTS, radius_um: float = np.inf, self_included: bool = False
    ) -> Neighbourhood:
        """The k nearest patches of every patch of a slide, in um, ties by row."""
        return self.places(slide_id, patches=patches).nearest(k, radius_um=radius_um, self_included=self_included)

    def places(self, slide_id: str, *, patches: str = SPOTS) -> Places:
        """Where the patches of a slide are, for neighbours of every kind: within a radius, by ring, in a window."""
        found = self.patches(slide_id, patches=patches)
        return Places(found.center_px * self.slide(slide_id).mpp, array=found.array)

    def parents(self, slide_id: str, *, patches: str, coarser: str, side_um: float | None = None) -> Neighbourhood:
        """The tile of a coarser patch set around each patch, (n, 1): as recorded, or by place where a side is given.

        Parameters
        ----------
        side_um
            Side of the coarser tiles, for patch sets that do not nest, such as spots in a grid.

        Raises
        ------
        StoreError
            If no side is given, and the recorded parents do not lead from one set to the other.
        """
        mpp = self.slide(slide_id).mpp
        return parents_between(
            lambda name: self.patches(slide_id, patches=name), patches, coarser, mpp=mpp, side_um=side_um
        )

    def children(self, slide_id: str, *, patches: str, finer: str, side_um: float | None = None) -> Neighbourhood:
        """The patches of a finer set in each tile of `patches`, by row; `parents` turned round."""
        parent = self.parents(slide_id, patches=finer, coarser=patches, side_um=side_um)
        return children(parent, len(self.patches(slide_id, patches=patches)))

    def build_index(
        self, key: str, *, patches: str = SPOTS, standardised: str = "cohort", options: BuildOptions | None = None
    ) -> SearchIndex:
        """Index every slide that has `key`, and keep the index in the store.

        Where an index of the same settings is there, slides that came since are added to it; see
        `tissuary.store.lookup.update_index`.
        """
        how = options or BuildOptions()
        return update_index(self, key, patches=patches, standardised=standardised, options=how).index

    @cached_property
    def opened_indexes(self) -> dict[object, SearchIndex]:
        """The index that was opened last, so that the next question need not read it again."""
        return {}

    def search(
        self,
        slide_id: str,
        patch: int,
        *,
        k: int = 10,
        key: str | None = None,
        patches: str = SPOTS,
        exclude: str | None = None,
        exact: bool = False,
    ) -> tuple[Hit, ...]:
        """Look-alikes of one patch across the cohort; the patch itself is never among them.

        Parameters
        ----------
        patch
            Row of the patch on its slide.
        key
            Feature key; the only one that is indexed where not given.
        exclude
            "patient" or "slide": leave the query's own out, inside the search, so that k hits still come back; fewer
            only where no other rows are left.
        exact
            Look at every row, also where the index is made of inverted lists.

        Raises
        ------
        StoreError
            If there is no index of `key`, or it is older than the features.
        MissingDependencyError
            If the index is made of inverted lists and FAISS is not installed.
        """
        index = open_index(self, key, patches=patches, exact=exact)
        return search_patch(index, slide_id, patch, k, exclude=exclude, exact=exact)

    def search_slide(
        self,
        slide_id: str,
        *,
        k: int = 10,
        key: str | None = None,
        patches: str = SPOTS,
        exclude: str | None = None,
        exact: bool = False,
        device: str = "cpu",
    ) -> LookAlikes:
        """Look-alikes of every patch of a slide, searched on "cpu", "cuda" or "auto"; else as `search`."""
        index = open_index(self, key, patches=patches, device=device, exact=exact)
        return search_slide(index, slide_id, k, exclude=exclude, exact=exact)
