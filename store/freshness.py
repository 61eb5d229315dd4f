"""Whether a search index still speaks of the store it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .catalog import load_catalog
from .catalog_rows import Entry
from .choices import listed
from .errors import FingerprintError, StoreError
from .index_file import read_meta
from .index_record import IndexRecord
from .naming import DENSITY, FeatureKey, field_um

if TYPE_CHECKING:
    from .store import Store


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


def check_fresh(store: Store, record: IndexRecord) -> None:
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


def changed_slides(store: Store, record: IndexRecord) -> tuple[str, ...]:
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
