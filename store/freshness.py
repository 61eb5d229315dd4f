"""Whether a search index still speaks of the store it lies in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FingerprintError, StoreError
from .search import SearchIndex

if TYPE_CHECKING:
    from .store import Store


def only_index(root: Path, patches: str) -> str:
    """Feature key of the one index over a patch set."""
    folders = (root / "indexes").glob(f"{patches}.*") if (root / "indexes").is_dir() else ()
    keys = sorted(folder.name.removeprefix(f"{patches}.") for folder in folders)
    if len(keys) != 1:
        have = ", ".join(keys) or f"none: run `tissuary index {root}`"
        msg = f"say which key to search by (`--key`); indexed on {patches!r} are {have}"
        raise StoreError(msg)
    return keys[0]


def check_fresh(store: Store, index: SearchIndex) -> None:
    """Refuse an index whose rows are no longer those of the store."""
    record = index.record
    now = store.slides_with([record.key], patches=record.patches)
    mine = [e for e in store.entries if (e.patches, e.key) == (record.patches, record.key) and not e.problem]
    prints = {e.fingerprint for e in mine}
    if prints != {record.fingerprint}:
        msg = f"the index of {record.key} was made from other features: run `tissuary index {store.path}` again"
        raise FingerprintError(msg)
    if now != record.slide_ids:
        msg = (
            f"the index of {record.key} covers {len(record.slide_ids)} slides, the store now {len(now)}: "
            f"run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)
    slides = [store.slide(slide_id) for slide_id in now]
    known = (
        tuple(store.patches(slide_id, patches=record.patches).digest for slide_id in now),
        tuple(slide.patient_id for slide in slides),
        tuple(slide.mpp for slide in slides),
    )
    if known != (record.patches_digests, record.patient_ids, record.mpp):
        msg = (
            f"patches, patients or um/px of slides changed since {record.key} was indexed: "
            f"run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)
