"""Whether a search index still speaks of the store it lies in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FingerprintError, StoreError
from .index_record import IndexRecord

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


def check_fresh(store: Store, record: IndexRecord) -> None:
    """Refuse an index whose rows are no longer those of the store.

    Raises
    ------
    FingerprintError
        If the features were made by another encoder.
    StoreError
        If slides came, went or changed.
    """
    mine = [e for e in store.entries if (e.patches, e.key) == (record.patches, record.key) and not e.problem]
    if {e.fingerprint for e in mine} != {record.fingerprint}:
        msg = f"the index of {record.key} was made from other features: run `tissuary index {store.path}` again"
        raise FingerprintError(msg)
    now = store.slides_with([record.key], patches=record.patches)
    if set(now) != set(record.slide_ids):
        new = len(set(now) - set(record.slide_ids))
        msg = (
            f"the index of {record.key} covers {len(record.slide_ids)} slides, the store now {len(now)} ({new} new): "
            f"run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)
    if changed_slides(store, record):
        msg = (
            f"patches, patients or um/px of slides changed since {record.key} was indexed: "
            f"run `tissuary index {store.path}` again"
        )
        raise StoreError(msg)


def changed_slides(store: Store, record: IndexRecord) -> tuple[str, ...]:
    """Slides of an index whose patches, patient or um/px are no longer what it knows."""
    known = zip(record.slide_ids, record.patches_digests, record.patient_ids, record.mpp, strict=True)
    changed = []
    for slide_id, digest, patient_id, mpp in known:
        slide = store.slide(slide_id)
        now = (store.patches(slide_id, patches=record.patches).digest, slide.patient_id, slide.mpp)
        if now != (digest, patient_id, mpp):
            changed.append(slide_id)
    return tuple(changed)
