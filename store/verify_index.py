"""Search indexes against their digests, and against the features that they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import file_sha256
from .catalog_rows import Entry
from .errors import StoreError
from .index_file import META, read_meta
from .patch_file import read_patches
from .schema import DAMAGE, patches_path
from .verify_problem import MENDS, Problem, of_error


@dataclass(frozen=True)
class IndexFindings:
    """What re-reading one index found; an index that is merely older than the store is a note."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def examine_index(root: Path, name: str, found: Mapping[str, Entry]) -> IndexFindings:
    """Re-read one index folder.

    Parameters
    ----------
    found
        Rows of the catalogue by path, as the files themselves give them.
    """
    folder = f"indexes/{name}"
    try:
        meta = read_meta(root / folder)
        problems = [*_check_files(root, folder, meta["sha256"]), *_check_record(root, folder, meta["record"], found)]
        return IndexFindings(tuple(problems), tuple(_notes(folder, meta["record"], found)))
    except DAMAGE as error:  # StoreError is among them
        return IndexFindings((of_error(root, f"{folder}/{META}", error, mend=MENDS["index"]),))


def _check_files(root: Path, folder: str, listed: Mapping[str, str]) -> Iterator[Problem]:
    for name, digest in listed.items():
        path = f"{folder}/{name}"
        try:
            if file_sha256(root / path) != digest:
                yield Problem(path, "", "", f"does not match its sha256 in {META}", MENDS["index"])
        except OSError as error:
            yield of_error(root, path, error, mend=MENDS["index"])
    here = {path.name for path in (root / folder).iterdir() if not path.name.startswith(".")}
    for name in sorted(here - set(listed) - {META}):
        yield Problem(f"{folder}/{name}", "", "", f"{META} does not name it", MENDS["index"])


def _check_record(root: Path, folder: str, record: Mapping[str, Any], found: Mapping[str, Entry]) -> Iterator[Problem]:
    """What an index says that it was made from, against the slides that are there still."""
    path, key = f"{folder}/{META}", record["key"]
    if record["name"] != folder.split("/", 1)[1]:
        what = f"says that it is the index {record['name']}: the folder was renamed or copied"
        yield Problem(path, "", "name", what, MENDS["index"])
    prints = {entry.fingerprint for entry in _features(record, found).values()}
    if prints - {record["fingerprint"]}:
        what = f"was made from other features of {key} ({record['fingerprint'][:12]}) than those of the store"
        yield Problem(path, "", "fingerprint", what, MENDS["index"])
    slides = {entry.slide_id: entry for entry in found.values() if entry.kind == "slide" and not entry.problem}
    known = zip(*(record[name] for name in ("slide_ids", "patient_ids", "mpp", "patches_digests")), strict=True)
    for slide_id, patient_id, mpp, digest in known:
        slide = slides.get(slide_id)
        if slide is None:
            continue
        differs = {
            "patient": slide.patient_id != patient_id,
            "um/px": slide.mpp != mpp,
            "patches": _digest(root, record["patches"], slide_id) not in (None, digest),
        }
        if any(differs.values()):
            names = " and ".join(name for name, is_other in differs.items() if is_other)
            what = f"{names} of slide {slide_id} changed since the index was made"
            yield Problem(path, "", f"slide {slide_id}", what, MENDS["index"])


def _notes(folder: str, record: Mapping[str, Any], found: Mapping[str, Entry]) -> Iterator[str]:
    now, then = set(_features(record, found)), set(record["slide_ids"])
    if now != then:
        yield (
            f"{folder} is older than the store: {len(now - then)} slides came and {len(then - now)} went since; "
            "run `tissuary index` again"
        )


def _features(record: Mapping[str, Any], found: Mapping[str, Entry]) -> dict[str, Entry]:
    """The whole feature files that an index should be made of, by slide."""
    wanted = ("features", record["patches"], record["key"])
    return {e.slide_id: e for e in found.values() if (e.kind, e.patches, e.key) == wanted and not e.problem}


def _digest(root: Path, patches: str, slide_id: str) -> str | None:
    try:
        return read_patches(patches_path(root, slide_id, patches=patches)).digest
    except StoreError:  # the file is named on its own
        return None
