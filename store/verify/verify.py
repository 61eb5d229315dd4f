"""Re-reading a whole store: every byte against its checksum, every file against the others."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..catalog_file import CATALOG, COLUMNS, Entry, list_folders, read_columns
from .index import examine_index
from .problem import MENDS, Problem, of_error
from .slide import FileFindings, examine_slide

log = logging.getLogger(__name__)

_STALE = ("mtime_ns", "problem")
"""What may differ without harm: a copied file has another time, and a file may have been mended."""


def check_catalog(root: Path, found: Mapping[str, Entry], *, named: Collection[str]) -> Iterator[Problem]:
    """Compare both files of the catalogue, as they lie there, with the rows that the files themselves give.

    Parameters
    ----------
    found
        Rows by path, of every file.
    named
        Paths of files that have a problem of their own; their rows are left alone.
    """
    found = {path: _named(entry) if path in named else entry for path, entry in found.items()}
    problems: list[Problem] = []
    if (root / COLUMNS).is_file():
        saved = read_columns(root)
        if saved is None:
            what = "is no catalogue of this version that can be read"
            problems.append(Problem(COLUMNS, "", "", what, MENDS["catalog"]))
        else:
            rows = (entry for folder in saved.folders for entry in folder.entries())
            problems += compare_rows(COLUMNS, rows, found)
    if (root / CATALOG).is_file():
        blamed = {problem.path for problem in problems} - {COLUMNS}
        problems += _check_parquet(root, {path: _named(now) if path in blamed else now for path, now in found.items()})
    yield from problems


def compare_rows(catalog: str, rows: Iterable[Entry], found: Mapping[str, Entry]) -> Iterator[Problem]:
    """Problems of the rows of a catalogue; a file that it does not have yet is none.

    Bytes that changed under the same size and time are a problem of the file where the catalogue has a checksum of
    its own, as `catalog.json` has: no writer leaves the time as it was, a failing disk does.
    """
    for row in rows:
        now = found.get(row.path)
        if now is None:
            what = f"speaks of {row.path}, which is not there"
            yield Problem(catalog, "", f"row of {row.path}", what, MENDS["catalog"])
            continue
        if now.problem:
            continue  # the file itself is reported
        same_stat = (row.size, row.mtime_ns) == (now.size, now.mtime_ns)
        if catalog == COLUMNS and same_stat and row.sha256 not in ("", now.sha256):
            what = (
                f"sha256 is {now.sha256[:12]}, was {row.sha256[:12]} when it was catalogued with the same size and time"
            )
            yield Problem(row.path, "", "", what, MENDS[row.kind])
            continue
        differ = [name for name in Entry._fields if name not in _STALE and getattr(row, name) != getattr(now, name)]
        if differ:
            said = ", ".join(f"{name} {getattr(row, name)!r}, the file has {getattr(now, name)!r}" for name in differ)
            yield Problem(catalog, "", f"row of {row.path}", f"says {said}", MENDS["catalog"])


def _check_parquet(root: Path, found: Mapping[str, Entry]) -> Iterator[Problem]:
    try:
        import polars
    except ImportError:
        log.info("%s is not compared: polars is not installed", CATALOG)
        return
    try:
        rows = [Entry(**row) for row in polars.read_parquet((root / CATALOG).read_bytes()).to_dicts()]
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, TypeError) as error:
        yield of_error(root, CATALOG, error, mend=MENDS["catalog"])
        return
    yield from compare_rows(CATALOG, rows, found)


def _named(entry: Entry) -> Entry:
    """The row of a file that has a problem of its own."""
    return entry._replace(problem="named")


__all__ = ["Problem", "Verification", "examine_store", "verify_store"]

_THREADS = 4
"""Checksums are computed beside one another; HDF5 itself is used by one thread at a time."""


@dataclass(frozen=True)
class Verification:
    """What re-reading a store found.

    Attributes
    ----------
    problems
        Sorted by file.
    notes
        What is no damage, and worth knowing: unfinished files, files without checksums, indexes older than the store.
    files, size_bytes
        What was read, indexes apart.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    files: int
    size_bytes: int


def verify_store(root: Path) -> tuple[Problem, ...]:
    """Everything that is wrong in a store; empty where all is whole.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    return examine_store(root).problems


def examine_store(root: Path, progress: Callable[[str, int, int], None] | None = None) -> Verification:
    """Re-read everything in a store; nothing is written.

    Parameters
    ----------
    progress
        Called with (slide id, slides done, slides) after each slide.

    Raises
    ------
    StoreError
        If `root` is no folder.
    """
    slides: defaultdict[str, list[Entry]] = defaultdict(list)
    for folder in list_folders(root):
        for entry in folder.entries():
            slides[entry.slide_id].append(entry)
    files: list[FileFindings] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        examined = pool.map(lambda slide_id: examine_slide(root, slide_id, slides[slide_id]), sorted(slides))
        for done, (slide_id, (found, wrong)) in enumerate(zip(sorted(slides), examined, strict=True), start=1):
            files += found
            problems += wrong
            if progress is not None:
                progress(slide_id, done, len(slides))
    entries = {file.entry.path: file.entry for file in files}
    problems += check_fingerprints(entries.values())
    problems += check_catalog(root, entries, named={problem.path for problem in problems})
    indexes = [examine_index(root, name, entries) for name in _index_names(root)]
    problems += [problem for index in indexes for problem in index.problems]
    problems += _broken_pictures(root)
    return Verification(
        problems=tuple(sorted(problems, key=lambda problem: (problem.path, problem.dataset))),
        notes=(*_notes(files), *_other_files(root, entries), *(note for index in indexes for note in index.notes)),
        files=len(files),
        size_bytes=sum(entry.size for entry in entries.values()),
    )


def check_fingerprints(entries: Iterable[Entry]) -> Iterator[Problem]:
    """Keys under which several encoders' features lie."""
    prints: defaultdict[str, Counter[str]] = defaultdict(Counter)
    slide: dict[tuple[str, str], str] = {}
    for entry in entries:
        if entry.kind == "features" and not entry.problem:
            folder = entry.path.rsplit("/", 1)[0]
            prints[folder][entry.fingerprint] += 1
            slide.setdefault((folder, entry.fingerprint), entry.slide_id)
    for folder, counts in prints.items():
        if len(counts) > 1:
            said = ", ".join(
                f"{name[:12]} of {count} slides such as {slide[folder, name]}" for name, count in counts.most_common()
            )
            mend = "delete the files of one of them and featurize those slides again, or keep them under another `--as`"
            yield Problem(folder, "", "fingerprint", f"features of different encoders lie under one key: {said}", mend)


def _index_names(root: Path) -> list[str]:
    folder = root / "indexes"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _other_files(root: Path, entries: Container[str]) -> Iterator[str]:
    """Notes on files that have no place in a store, and on unfinished ones."""
    stray, unfinished = [], []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder).relative_to(root).as_posix()
        of_store = here == "qc" or (here.startswith("indexes/") and here.count("/") == 1)
        for name in sorted(names):
            path = name if here == "." else f"{here}/{name}"
            if name.startswith("."):
                unfinished.append(path)
            elif not (of_store or path in entries or path in (CATALOG, COLUMNS)):
                stray.append(path)
    if stray:
        yield f"no file of a store: {_first(stray)}; move what is yours elsewhere, or delete it"
    if unfinished:
        yield f"unfinished: {_first(unfinished)}; `tissuary featurize` goes on from them or removes them"


def _broken_pictures(root: Path) -> Iterator[Problem]:
    for path in sorted((root / "qc").glob("[!.]*.jpg")):
        if not _is_whole_jpeg(path):
            yield Problem(f"qc/{path.name}", "", "", "is no whole JPEG picture", MENDS["qc"])


def _is_whole_jpeg(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")


def _notes(files: Sequence[FileFindings]) -> Iterator[str]:
    bare = Counter(file.entry.kind for file in files if not file.covered and not file.problems)
    for kind, count in sorted(bare.items()):
        files_of = f"{count} file{'s' if count > 1 else ''} of {kind}"
        yield (
            f"{files_of} carry no checksums, as those of an older version or another tool: they were read, but nothing "
            "says what their bytes should be"
        )
    imported = [file.entry.slide_id for file in files if file.thumbnail is False]
    if imported:
        slides = f"{len(imported)} slide{'s' if len(imported) > 1 else ''}"
        yield (
            f"{slides} without a thumbnail, as an import without the image leaves them: {_first(imported)}. Nothing is "
            "damaged; maps have no picture under them, and whether features are of this image cannot be checked"
        )


def _first(paths: list[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{more}"
