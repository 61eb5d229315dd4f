"""The search indexes of a store: built, brought up to date, opened and asked."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..catalog import load_catalog
from ..catalog_file import Entry
from ..choices import StoreContents, instead, listed, no_key
from ..errors import FingerprintError, StoreError
from ..files.column import FeatureColumn
from ..files.lock import slide_lock
from ..files.patches import Patches
from ..files.schema import features_path, index_path
from ..files.slide import SlideRecord
from ..naming import DENSITY, FeatureKey, field_um
from ..table import Table
from .build import add_slides, build_index, check_options, kind_for
from .files import META, load_index, read_meta, save_index
from .record import BuildOptions, IndexRecord, features_digest, features_stamp, replaced_slides
from .search import (
    Hit,
    LookAlikes,
    SearchIndex,
    groups_of,
    hits,
    look_alikes,
    nearest_rows,
    search_warnings,
    warn_of_blanks,
)


class SearchedStore(StoreContents, Protocol):
    """What an index needs of its store."""

    @property
    def opened_indexes(self) -> dict[object, SearchIndex]:
        """The index that was opened last."""
        ...

    def slide(self, slide_id: str) -> SlideRecord:
        """Geometry and scale of a slide."""
        ...

    def patches(self, slide_id: str, *, patches: str | None = None) -> Patches:
        """Centres of a slide's patches."""
        ...

    def table(
        self,
        keys: str | Sequence[str],
        *,
        slides: str | Sequence[str] | None = None,
        patches: str | None = None,
        expression: bool = True,
    ) -> Table:
        """See `Store.table`."""
        ...


def default_index(root: Path, patches: str) -> str:
    """Key of the only index over a patch set, or of the finest view where one encoder alone is indexed.

    The density control counts only where nothing else is indexed.

    Raises
    ------
    StoreError
        If there is none, or several encoders are indexed.
    """
    folders = sorted((root / "indexes").glob(f"{patches}.*")) if (root / "indexes").is_dir() else []
    keys = [folder.name.removeprefix(f"{patches}.") for folder in folders if _is_over(folder, patches)]
    if not keys:
        have = listed(sorted(folder.name for folder in (root / "indexes").glob("[!.]*")))
        msg = f"no features on {patches!r} are indexed (indexes: {have}): run `tissuary index {root}`"
        raise StoreError(msg)
    if len(keys) == 1:
        return keys[0]
    here = [FeatureKey.parse(key) for key in keys if (root / "features" / patches / key).is_dir()]
    candidates = [key for key in here if key.backbone != DENSITY] or here
    if len({key.encoder for key in candidates}) == 1:
        return str(min(candidates, key=lambda key: field_um(key.view)))
    msg = f'several encoders are indexed on {patches!r}, {listed(keys)}: choose one with `key="{keys[0]}"`'
    raise StoreError(msg)


def check_fresh(store: SearchedStore, record: IndexRecord) -> None:
    """Refuse an index whose rows are no longer those of the store, as its files are now.

    Raises
    ------
    FingerprintError
        If the features were made by another encoder.
    StoreError
        If slides came, went or changed.
    """
    entries = load_catalog(store.path)
    mine = {e.slide_id: e for e in _whole(entries, "features", record.patches) if e.key == record.key}
    prints = {e.fingerprint for e in mine.values()}
    if prints != {record.fingerprint}:
        now = ", ".join(sorted(name[:12] for name in prints)) or "gone"
        msg = (
            f"the index of {record.key} was made from other features ({record.fingerprint[:12]}; those of the store "
            f"are {now}): run `tissuary index {store.path}` again"
        )
        raise FingerprintError(msg)
    slides = {e.slide_id for e in _whole(entries, "slide", "")} & set(mine)
    if slides != set(record.slide_ids):
        new = len(slides - set(record.slide_ids))
        msg = (
            f"the index of {record.key} covers {len(record.slide_ids)} slides, the store now {len(slides)} ({new} new)"
            f": run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)
    changed = _changed(entries, record)
    if changed:
        msg = (
            f"patches, patients or um/px of slides changed since {record.key} was indexed ({', '.join(changed[:3])}): "
            f"run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)


def changed_slides(store: SearchedStore, record: IndexRecord) -> tuple[str, ...]:
    """Slides of an index whose patches, patient or um/px are no longer what it knows."""
    return _changed(load_catalog(store.path), record)


def _changed(entries: Sequence[Entry], record: IndexRecord) -> tuple[str, ...]:
    slides = {e.slide_id: (e.patient_id, e.mpp) for e in _whole(entries, "slide", "")}
    digests = {e.slide_id: e.sha256 for e in _whole(entries, "patches", record.patches)}
    known = zip(record.slide_ids, record.patches_digests, record.patient_ids, record.mpp, strict=True)
    return tuple(
        slide_id
        for slide_id, digest, patient_id, mpp in known
        if (digests.get(slide_id), slides.get(slide_id)) != (digest, (patient_id, mpp))
    )


def _whole(entries: Sequence[Entry], kind: str, patches: str) -> list[Entry]:
    """Rows of one kind and patch set whose files can be read."""
    return [e for e in entries if (e.kind, e.patches) == (kind, patches) and not e.problem]


def _is_over(folder: Path, patches: str) -> bool:
    """Whether an index is over a patch set; `grid-56um` begins like `grid-56um.5` (a name may hold dots)."""
    try:
        return bool(read_meta(folder)["record"]["patches"] == patches)
    except (StoreError, LookupError, TypeError):  # opening it says what is wrong
        return True


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """What became of an index.

    Attributes
    ----------
    added
        Slides that were not in it before.
    done
        "built", "added to" or "unchanged".
    why
        Why an index that was there had to be built anew; empty where there was none.
    """

    index: SearchIndex
    added: tuple[str, ...]
    done: str
    why: str = ""


def update_index(store: SearchedStore, key: str, *, patches: str, standardised: str, options: BuildOptions) -> Built:
    """Build the index of a key, or add the slides that came since, and keep it in the store.

    Slides that went or changed, and other settings, need an index built anew, and get one.

    Raises
    ------
    StoreError
        If no slide has the key, it holds token grids, or an option is unknown.
    """
    check_options(options, standardised=standardised)
    table = store.table(key, patches=patches, expression=False)
    wanted = _record(store, table, key, patches=patches, standardised=standardised, options=options)
    folder = index_path(store.path, wanted.name)
    old, why = _kept(store, folder, wanted, options)
    added = wanted.slide_ids if old is None else tuple(sorted(set(wanted.slide_ids) - set(old.record.slide_ids)))
    if old is not None and not added:
        return Built(old, (), "unchanged")
    with slide_lock(store.path, f"index of {wanted.name}"[:200].rstrip()):  # or two jobs would sweep each other's files
        if old is None:
            built = Built(build_index(table, wanted, options), added, "built", why)
        else:
            slides = (*old.record.slide_ids, *added)
            table = store.table(key, slides=slides, patches=patches, expression=False)
            wanted = _record(store, table, key, patches=patches, standardised=standardised, options=options)
            built = Built(add_slides(old, table, wanted, options), added, "added to")
        save_index(folder, built.index)
    return built


def open_index(
    store: SearchedStore, key: str | None, *, patches: str, device: str = "cpu", exact: bool = False
) -> SearchIndex:
    """The index of a key (see `default_index` where None), checked against the store.

    A store keeps the last one that it opened, until its files change.

    Parameters
    ----------
    exact
        Inverted lists will not be asked, so that they need not be read.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or it no longer speaks of the store.
    MissingDependencyError
        If it is made of inverted lists and FAISS is not installed.
    """
    key = key or default_index(store.path, patches)
    if not (store.path / "features" / patches / key).is_dir():
        raise no_key(store, key, patches=patches)
    folder = index_path(store.path, f"{patches}.{key}")
    stamp = (folder, device, exact, _stamp(folder))
    if stamp not in store.opened_indexes:
        record = IndexRecord.from_json(read_meta(folder)["record"])
        check_fresh(store, record)
        replaced = replaced_slides(store.path, record)
        if replaced:
            msg = (
                f"the features of {', '.join(replaced[:3])} were replaced since {record.key} was indexed: "
                f"run `tissuary index {store.path}` again"
            )
            raise StoreError(msg)
        index = load_index(folder, lambda record: _column(store, record), device=device, lists=not exact)
        store.opened_indexes.clear()
        store.opened_indexes[stamp] = index
    return store.opened_indexes[stamp]


def search_patch(
    index: SearchIndex, slide_id: str, patch: int, k: int, *, exclude: str | None, exact: bool = False
) -> tuple[Hit, ...]:
    """Look-alikes of one patch; see `Store.search`."""
    k = _count(k)
    rows = index.rows_of(_number(index, slide_id, exclude=exclude))
    if not 0 <= patch < len(rows):
        have = f"has patches 0 to {len(rows) - 1}, not {patch}" if len(rows) else "has no patches"
        msg = f"slide {slide_id!r} {have}"
        raise StoreError(msg)
    warn_of_blanks(index, rows[patch : patch + 1])
    found = nearest_rows(index, rows[patch : patch + 1], k, exclude=exclude, exact=exact)
    return hits(index, found[0][0], found[1][0])


def patch_row(store: SearchedStore, slide_id: str, patch: int | str, *, patches: str) -> int:
    """Row of a patch on its slide, from the row or the barcode.

    Raises
    ------
    StoreError
        If the slide has no such patch.
    """
    if not isinstance(patch, str):
        try:
            return operator.index(patch)
        except TypeError as error:
            msg = f"patch {patch!r} of slide {slide_id!r}: give a row, such as 17, or a barcode"
            raise StoreError(msg) from error
    if patch.isdecimal():
        return int(patch)
    barcodes = store.patches(slide_id, patches=patches).barcode
    found = np.flatnonzero(barcodes == patch)
    if len(found):
        return int(found[0])
    have = f"; its first barcode is {barcodes[0]}" if len(barcodes) and barcodes[0] else ""
    msg = f"slide {slide_id!r} has no patch {patch!r} in {patches!r}: give a row number or a barcode{have}"
    raise StoreError(msg)


def search_slide(
    index: SearchIndex,
    slide_id: str,
    k: int,
    *,
    exclude: str | None,
    exact: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> LookAlikes:
    """Look-alikes of every patch of a slide; see `Store.search_slide`."""
    k, number = _count(k), _number(index, slide_id, exclude=exclude)
    warn_of_blanks(index, index.rows_of(number))
    return look_alikes(index, number, k, exclude=exclude, exact=exact, progress=progress)


def _count(k: int) -> int:
    """How many look-alikes are wanted."""
    try:
        return operator.index(k)
    except TypeError as error:
        msg = f"k = {k!r}: ask for a whole number of look-alikes"
        raise StoreError(msg) from error


def _number(index: SearchIndex, slide_id: str, *, exclude: str | None) -> int:
    """Number of a slide in an index; warns where its patient cannot be left out."""
    record = index.record
    if slide_id not in record.slide_ids:
        msg = f"slide {slide_id!r} is not in the index of {record.key}: {instead(slide_id, record.slide_ids)}"
        raise StoreError(msg)
    number = record.slide_ids.index(slide_id)
    groups_of(index, index.rows_of(number)[:0], exclude=exclude)  # refuses an unknown one before the warning
    for sentence in search_warnings(index, slide_id, exclude=exclude):
        log.warning("%s", sentence)
    return number


def _record(
    store: SearchedStore, table: Table, key: str, *, patches: str, standardised: str, options: BuildOptions
) -> IndexRecord:
    """What an index over a table is to be made of."""
    paths = [features_path(store.path, slide, key=key, patches=patches) for slide in table.slide_ids]
    slides = [store.slide(slide) for slide in table.slide_ids]
    return IndexRecord(
        name=f"{patches}.{key}",
        key=key,
        patches=patches,
        fingerprint=table.columns[key].fingerprint,
        standardised=standardised,
        metric=options.metric,
        slide_ids=table.slide_ids,
        patient_ids=table.patient_ids,
        patches_digests=tuple(store.patches(slide, patches=patches).digest for slide in table.slide_ids),
        mpp=tuple(slide.mpp for slide in slides),
        source_digests=tuple(slide.source_digest for slide in slides),
        features_digests=tuple(map(features_digest, paths)),
        features_stamps=tuple(map(features_stamp, paths)),
        kind=kind_for(options.kind, len(table)),
    )


def _kept(
    store: SearchedStore, folder: Path, wanted: IndexRecord, options: BuildOptions
) -> tuple[SearchIndex | None, str]:
    """The index that is there, if it can stay; else why not."""
    if not (folder / META).is_file():
        return None, ""
    if options.rebuild:
        return None, "a rebuild was asked for"
    try:
        record = IndexRecord.from_json(read_meta(folder)["record"])
        why = _why_rebuild(store, record, wanted, options)
        return (None, why) if why else (load_index(folder, lambda record: _column(store, record)), "")
    except StoreError as error:
        return None, str(error)


def _why_rebuild(store: SearchedStore, record: IndexRecord, wanted: IndexRecord, options: BuildOptions) -> str:
    """Why adding slides to an index would not give what is wanted; empty where it would."""
    gone = set(record.slide_ids) - set(wanted.slide_ids)
    if gone:
        return f"{len(gone)} of its slides are gone"
    for name in ("fingerprint", "standardised", "metric", "kind"):
        if getattr(record, name) != getattr(wanted, name):
            return f"its {name} was {getattr(record, name)}, now {getattr(wanted, name)}"
    if record.ivf is not None and record.ivf.target != options.recall:
        return f"its recall target was {record.ivf.target}, now {options.recall}"
    for what, changed in (
        ("patches, patient or um/px", changed_slides(store, record)),
        ("features", replaced_slides(store.path, record)),
    ):
        if changed:
            return f"{what} of {', '.join(changed[:3])} changed"
    return ""


def _column(store: SearchedStore, record: IndexRecord) -> FeatureColumn:
    """Features of the slides of an index, in its order."""
    table = store.table(record.key, slides=record.slide_ids, patches=record.patches, expression=False)
    return table.columns[record.key]


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of an index's files."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    stats = [(file.name, file.stat()) for file in files if not file.name.startswith(".")]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
