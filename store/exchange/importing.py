"""Import: every file of another tool below a path, each on its own; a bad one is named and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FingerprintError, StoreError, TissuaryError, plain_text
from ..files.atomic import sweep_partials
from ..files.same_encoder import KeyFingerprints
from ..files.schema import TOOLS, tool_of, tool_output
from ..naming import check_name
from .foreign import Declared, ExternalSlide, FileToImport, Look
from .hdf import open_foreign
from .ingest import Imported, deposit

log = logging.getLogger(__name__)

_ALIKE = {"TRIDENT": ("CLAM",), "TRIPLEX": ("HEST", "CLAM")}
"""Tools whose files cannot always be told from those of others: TRIDENT reads CLAM's coordinates, TRIPLEX HEST's."""

_ABSURD = (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)
"""What numpy, h5py and json raise of values that no check foresaw; not OSError, which is of the disk, not of a file."""

Progress = Callable[[str, int, int], None]
"""Called with the slide, files done, and files in all."""


@dataclass(frozen=True)
class Importer:
    """How files of one tool are found below a path, and one of them read.

    Attributes
    ----------
    find
        Takes the path, and the folder of coordinates that was declared.
    leaves
        (name, reason) of what lies below a path and is not taken.
    """

    tool: str
    find: Callable[[Path, Path | None], tuple[FileToImport, ...]]
    read: Callable[[FileToImport], ExternalSlide]
    leaves: Callable[[Path], tuple[tuple[str, str], ...]] = lambda _: ()


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    skipped, failed
        (file, reason) of files without patches, and of files that could not be imported.
    """

    store: str
    tool: str
    done: tuple[Imported, ...]
    skipped: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]


def import_files(
    path: Path,
    root: Path,
    importer: Importer,
    *,
    declared: Declared,
    coords: Path | None = None,
    look: Look = lambda _: None,
    progress: Progress = lambda *_: None,
) -> ImportReport:
    """Import the files below `path` into the store `root`.

    Parameters
    ----------
    declared
        What the files do not say.
    coords
        Folder of the files that hold coordinates, for tools that keep them apart.
    look
        Looks at the image of a slide, where images are at hand.

    Raises
    ------
    StoreError
        If there is nothing to import.
    """
    files = _files_of(path, importer, coords=coords)
    if root.is_dir():
        sweep_partials(root)
    keys = KeyFingerprints(root)
    folders: set[str] = set()
    seen: dict[str, str] = {}
    done: list[Imported] = []
    skipped: list[tuple[str, str]] = [*importer.leaves(path)]
    failed: list[tuple[str, str]] = []
    for i, found in enumerate(files):
        progress(found.slide_id, i, len(files))
        name = _name(found.path, path)
        try:
            check_name(found.slide_id, "slide id")
            _check_tool(found.path, importer)
            foreign = importer.read(found)
            if not len(foreign):
                skipped.append((name, "no patches: the slide was empty"))
                continue
            _check_one_encoder(foreign, folders, declared=declared)
            done.append(deposit(root, foreign, declared, file=found.path, look=look, keys=keys))
            seen.setdefault(found.slide_id, name)
        except TissuaryError as error:
            log.info("%s", name, exc_info=True)
            notes = [*getattr(error, "__notes__", ())]
            if found.slide_id in seen:
                notes.append(f"(In this import the slide came from {seen[found.slide_id]} before.)")
            failed.append((name, " ".join([str(error), *notes])))
        except _ABSURD as error:
            log.info("%s", name, exc_info=True)
            why = f"{type(error).__name__}: {plain_text(error)}"
            failed.append((name, f"{found.path} does not hold what its format says ({why}): make the file again"))
    progress("done", len(files), len(files))
    return ImportReport(str(root), importer.tool, tuple(done), tuple(skipped), tuple(failed))


def _files_of(path: Path, importer: Importer, *, coords: Path | None) -> tuple[FileToImport, ...]:
    if not path.exists():
        msg = f"{path} does not exist: check the path"
        raise StoreError(msg)
    if coords is not None and not coords.is_dir():
        msg = f"--coords {coords} is no folder: give the one that holds the patches files"
        raise StoreError(msg)
    files = importer.find(path, coords)
    if files and any(found.path.suffix != ".pt" for found in files):
        return files
    output = tool_output(path)  # other tools write .pt too
    if output is not None and output.tool != importer.tool:
        msg = f"no file of {importer.tool}: {output}"
        raise StoreError(msg)
    if not files:
        msg = f"{path} holds no file that {importer.tool} writes: check path and --format"
        raise StoreError(msg)
    return files


def _looks_like(path: Path) -> str | None:
    """Format of `tissuary import` that a file seems to be of, or None."""
    if path.suffix != ".h5":
        return None
    try:
        with open_foreign(path) as file:
            return tool_of(file)
    except StoreError:
        return None  # the reader says it better


def _check_tool(path: Path, importer: Importer) -> None:
    """Refuse the files of another tool, of which a reader might take the half that it knows."""
    looks = _looks_like(path)
    if looks is None or TOOLS[looks] == importer.tool or TOOLS[looks] in _ALIKE.get(importer.tool, ()):
        return
    msg = f"{path} is no file of {importer.tool}; it looks like {TOOLS[looks]}'s: import it with --format {looks}"
    raise StoreError(msg)


def _check_one_encoder(foreign: ExternalSlide, folders: set[str], *, declared: Declared) -> None:
    """Refuse to give the one declared encoder to files of a second folder, where folders stand for encoders."""
    if foreign.features is None or foreign.encoder is not None or foreign.hint is None:
        return
    if folders and foreign.hint not in folders:
        msg = (
            f"slide {foreign.slide_id}: it lies in a folder {foreign.hint!r}, the files before it in "
            f"{next(iter(folders))!r}, and folders may stand for encoders: import one of them at a time, so that "
            f"--encoder {declared.encoder or 'NAME'} is said of the right one"
        )
        raise FingerprintError(msg)
    folders.add(foreign.hint)


def _name(file: Path, path: Path) -> str:
    return file.name if file == path else file.relative_to(path).as_posix()
