"""Search indexes against their digests, and against the features that they were made from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..catalog import file_sha256
from ..catalog_file import Entry
from ..files.schema import DAMAGE
from ..search.files import META, read_meta
from ..search.record import IndexRecord, features_digest
from .problem import MENDS, Problem, of_error


@dataclass(frozen=True)
class IndexFindings:
    """What re-reading one index found; an index that is merely older than the store, or left something, is a note."""

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
        record = IndexRecord.from_json(meta["record"])
        problems = [*_check_files(root, folder, meta["sha256"]), *_check_record(root, folder, record, found)]
        return IndexFindings(tuple(problems), tuple(_notes(root, folder, meta["sha256"], record, found)))
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


def _check_record(root: Path, folder: str, record: IndexRecord, found: Mapping[str, Entry]) -> Iterator[Problem]:
    """What an index says that it was made from, against the slides that are there still."""
    path, features = f"{folder}/{META}", _features(record, found)
    if record.name != folder.split("/", 1)[1]:
        what = f"says that it is the index {record.name}: the folder was renamed or copied"
        yield Problem(path, "", "name", what, MENDS["index"])
    if {entry.fingerprint for entry in features.values()} - {record.fingerprint}:
        what = f"was made from other features of {record.key} ({record.fingerprint[:12]}) than those of the store"
        yield Problem(path, "", "fingerprint", what, MENDS["index"])
    whole = [entry for entry in found.values() if not entry.problem]
    slides = {entry.slide_id: entry for entry in whole if entry.kind == "slide"}
    wanted = ("patches", record.patches)
    patches = {entry.slide_id: entry.sha256 for entry in whole if (entry.kind, entry.patches) == wanted}
    for number, slide_id in enumerate(record.slide_ids):
        slide, rows = slides.get(slide_id), features.get(slide_id)
        differs = {
            "patient": slide is not None and slide.patient_id != record.patient_ids[number],
            "um/px": slide is not None and slide.mpp != record.mpp[number],
            "patches": patches.get(slide_id, record.patches_digests[number]) != record.patches_digests[number],
            "features": rows is not None and features_digest(root / rows.path) != record.features_digests[number],
        }
        if any(differs.values()):
            names = " and ".join(name for name, is_other in differs.items() if is_other)
            what = f"{names} of slide {slide_id} changed since the index was made"
            yield Problem(path, "", f"slide {slide_id}", what, MENDS["index"])


def _notes(
    root: Path, folder: str, listed: Collection[str], record: IndexRecord, found: Mapping[str, Entry]
) -> Iterator[str]:
    here = {path.name for path in (root / folder).iterdir() if not path.name.startswith(".")}
    for name in sorted(here - set(listed) - {META}):
        yield f"{folder}/{name} is not named by {META}: left behind by a killed `tissuary index`; delete it"
    now, then = set(_features(record, found)), set(record.slide_ids)
    if now != then:
        yield (
            f"{folder} is older than the store: {len(now - then)} slides came and {len(then - now)} went since; "
            "run `tissuary index` again"
        )


def _features(record: IndexRecord, found: Mapping[str, Entry]) -> dict[str, Entry]:
    """The whole feature files that an index should be made of, by slide."""
    wanted = ("features", record.patches, record.key)
    return {e.slide_id: e for e in found.values() if (e.kind, e.patches, e.key) == wanted and not e.problem}
