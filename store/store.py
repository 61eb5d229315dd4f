"""The door to a store: its catalogue, features, tables, neighbourhoods and search."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from .arrays import Floats
from .catalog import load_catalog, to_frame
from .catalog_file import Entry
from .choices import as_names, instead, listed, no_key, no_patch_set, no_slide, what_is_missing
from .errors import InvalidNameError, StoreError
from .files.features import FeatureFile, FeatureHeader, read_features
from .files.patches import Patches, read_patches
from .files.schema import features_path, patches_path, slide_path
from .files.slide import SlideRecord, read_slide
from .join import add_counts, join_slides
from .naming import SPOTS, FeatureKey, check_name
from .search.lookup import open_index, patch_row, search_patch, search_slide, update_index
from .search.record import BuildOptions
from .search.search import Hit, LookAlikes, SearchIndex
from .spatial.neighbourhood import Neighbourhood
from .spatial.nested import children, parents_between
from .spatial.places import Places
from .store_folder import check_store
from .table import Table, holds, slide_frame

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

    def reread(self) -> Self:
        """The same store, as its files are now."""
        return type(self)(self.path)

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
        """One line a slide, for choosing among them; see `tissuary.store.table.slide_frame`."""
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
        """The only patch set, or `spots` where there are several.

        Raises
        ------
        StoreError
            If there are several, and none of them is `spots`.
        """
        try:
            names = [name for name in os.listdir(self.path / "patches") if name[0] != "."]  # noqa: PTH208
        except FileNotFoundError:
            return SPOTS
        if len(names) != 1:  # a folder may be empty
            names = list(self.patch_sets)
        if len(names) > 1 and SPOTS not in names:
            msg = f'{self.path} has several patch sets, {listed(names)}: choose one with `patches="{names[0]}"`'
            raise StoreError(msg)
        return names[0] if len(names) == 1 else SPOTS

    def patch_set(self, patches: str | None = None) -> str:
        """Name of a patch set of the store: as given, else the only one, or `spots`.

        Raises
        ------
        StoreError
            If there is no such patch set; the message names those that there are.
        """
        name = self.default_patches if patches is None else patches
        if patches is not None and not (self.path / "patches" / check_name(name, "patch set")).is_dir():
            raise no_patch_set(self, name)
        return name

    def keys(self, patches: str | None = None) -> tuple[str, ...]:
        """Feature keys of a patch set (the only one, or spots, where None), sorted."""
        name = self.default_patches if patches is None else patches
        return tuple(sorted({e.key for e in self.entries if e.kind == "features" and e.patches == name}))

    def slides_with(
        self, keys: str | Sequence[str], *, patches: str | None = None, expression: bool = False
    ) -> tuple[str, ...]:
        """Slides that have all of `keys` (and counts, where asked), sorted."""
        name = self.default_patches if patches is None else patches
        whole = [entry for entry in self.entries if not entry.problem]  # a damaged file costs only its slide
        sets = [
            {e.slide_id for e in whole if (e.patches, e.key) == (name, key)} for key in as_names(keys, "feature keys")
        ]
        if expression:
            sets.append({e.slide_id for e in whole if e.kind == "expression"})
        return tuple(sorted(set(self.slide_ids).intersection(*sets)))

    def slide(self, slide_id: str) -> SlideRecord:
        """Geometry and scale of a slide."""
        path = slide_path(self.path, slide_id)
        if not path.is_file():
            raise no_slide(self, slide_id)
        record = read_slide(path)
        if record.slide_id != slide_id:
            msg = f"slides/{slide_id}.h5 says that it is slide {record.slide_id}: files of a store are never renamed"
            raise StoreError(msg)
        return record

    def patches(self, slide_id: str, *, patches: str | None = None) -> Patches:
        """Centres of a slide's patches; of the only patch set, or of spots, where None is given."""
        name = self.patch_set(patches)
        path = patches_path(self.path, slide_id, patches=name)
        if not path.is_file():
            raise what_is_missing(self, slide_id, patches=name)
        return read_patches(path)

    def features(self, key: str, slide_id: str, *, patches: str | None = None) -> Floats:
        """Features of one slide, memory-mapped: (n, dim) or (n, tokens, dim).

        Parameters
        ----------
        patches
            Patch set; the only one, or spots, where None.

        Raises
        ------
        StoreError
            If there are none; the message names the keys, slides or patch sets that there are.
        """
        return self._features(key, slide_id, patches=patches).features

    def header(self, key: str, slide_id: str, *, patches: str | None = None) -> FeatureHeader:
        """What the features of one slide say of themselves: fingerprint, record, scale."""
        return self._features(key, slide_id, patches=patches).header

    def _features(self, key: str, slide_id: str, *, patches: str | None) -> FeatureFile:
        name = self.patch_set(patches)
        path = features_path(self.path, slide_id, key=self._checked_key(key, name), patches=name)
        if not path.is_file():
            raise what_is_missing(self, slide_id, patches=name, key=key)
        file = read_features(path)
        if file.header.slide_id != slide_id:
            msg = f"{path} says that it is of slide {file.header.slide_id}: files of a store are never renamed"
            raise StoreError(msg)
        return file

    def _checked_key(self, key: str, patches: str) -> str:
        """A key, unless it does not even read as one."""
        try:
            FeatureKey.parse(key)
        except (InvalidNameError, TypeError) as error:
            slide = " (a slide comes after the key)" if key in self.slide_ids else ""
            msg = f"{self.path} has no features {key!r} on {patches!r}{slide}: {instead(str(key), self.keys(patches))}"
            raise InvalidNameError(msg) from error
        return key

    def table(  # noqa: PLR0913
        self,
        keys: str | Sequence[str],
        *,
        slides: str | Sequence[str] | None = None,
        where: polars.Expr | None = None,
        patches: str | None = None,
        expression: bool = True,
        genes: str = "shared",
        control_keys: str | Sequence[str] = (),
        token_keys: str | Sequence[str] = (),
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
        patches
            Patch set; the only one, or spots, where None.
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
        patches, keys = self.patch_set(patches), as_names(keys, "keys")
        control_keys, token_keys = as_names(control_keys, "control_keys"), as_names(token_keys, "token_keys")
        for key in (*keys, *control_keys, *token_keys):
            if not (self.path / "features" / patches / self._checked_key(key, patches)).is_dir():
                raise no_key(self, key, patches=patches)
        if slides is None:
            chosen = self.slides_with(keys, patches=patches, expression=expression)
        else:
            chosen = as_names(slides, "slides")
            for slide_id, key in itertools.product(chosen, keys):
                if not features_path(self.path, slide_id, key=key, patches=patches).is_file():
                    raise what_is_missing(self, slide_id, patches=patches, key=key)
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
            without = " (`expression=False` reads features alone)" if expression else ""
            msg = f"{self.path}: no slide has {wanted} ({patches}: {have}){without}"
            raise StoreError(msg)
        records = [self.slide(slide_id) for slide_id in chosen]
        table, places = join_slides(
            self.path, keys, records, patches=patches, control_keys=control_keys, token_keys=token_keys
        )
        if expression:
            table = add_counts(table, self.path, places=places, genes=genes)
        return table if where is None or of_slides else table.where(where)

    def neighbours(
        self,
        slide_id: str,
        k: int,
        *,
        patches: str | None = None,
        radius_um: float = np.inf,
        self_included: bool = False,
    ) -> Neighbourhood:
        """The k nearest patches of every patch of a slide, in um, ties by row."""
        return self.places(slide_id, patches=patches).nearest(k, radius_um=radius_um, self_included=self_included)

    def places(self, slide_id: str, *, patches: str | None = None) -> Places:
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
        self, key: str, *, patches: str | None = None, standardised: str = "cohort", options: BuildOptions | None = None
    ) -> SearchIndex:
        """Index every slide that has `key`, and keep the index in the store.

        Where an index of the same settings is there, slides that came since are added to it; see
        `tissuary.store.search.lookup.update_index`.
        """
        how = options or BuildOptions()
        return update_index(self, key, patches=self.patch_set(patches), standardised=standardised, options=how).index

    @cached_property
    def opened_indexes(self) -> dict[object, SearchIndex]:
        """The index that was opened last, so that the next question need not read it again."""
        return {}

    def search(
        self,
        slide_id: str,
        patch: int | str,
        *,
        k: int = 10,
        key: str | None = None,
        patches: str | None = None,
        exclude: str | None = None,
        exact: bool = False,
    ) -> tuple[Hit, ...]:
        """Look-alikes of one patch across the cohort; the patch itself is never among them.

        Parameters
        ----------
        patch
            Row of the patch on its slide, or its barcode.
        key
            Feature key; where not given the only one that is indexed, or the finest view of the only backbone.
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
        name = self.patch_set(patches)
        index = open_index(self, key, patches=name, exact=exact)
        row = patch_row(self, slide_id, patch, patches=name)
        return search_patch(index, slide_id, row, k, exclude=exclude, exact=exact)

    def search_slide(
        self,
        slide_id: str,
        *,
        k: int = 10,
        key: str | None = None,
        patches: str | None = None,
        exclude: str | None = None,
        exact: bool = False,
        device: str = "cpu",
    ) -> LookAlikes:
        """Look-alikes of every patch of a slide, searched on "cpu", "cuda" or "auto"; else as `search`."""
        index = open_index(self, key, patches=self.patch_set(patches), device=device, exact=exact)
        return search_slide(index, slide_id, k, exclude=exclude, exact=exact)
