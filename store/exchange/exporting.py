"""Export: every slide of a store in another tool's files; a slide that fails is named and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from ..arrays import Pixels
from ..atomic import check_writable
from ..choices import no_key, no_patch_set
from ..errors import StoreError, TissuaryError
from ..expression import read_expression
from ..naming import SPOTS, FeatureKey
from ..schema import SLIDE, expression_path, open_h5, slide_path
from ..slide_file import SAME_MPP, read_thumbnail
from ..store import Store
from .outgoing import Column, OutgoingSlide

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with the slide, slides done, and slides in all."""

DENSITY = "haematoxylin@"
"""Start of the keys of the density control, which is left out unless it is asked for."""


@dataclass(frozen=True)
class Exporter:
    """How one slide is written for another tool.

    Attributes
    ----------
    write
        Takes a slide and the folder; returns the files, and what was left out or rounded.
    bare
        Whether a slide without features is worth a file.
    check
        Raises where a library is missing.
    """

    tool: str
    write: Callable[[OutgoingSlide, Path], tuple[list[Path], list[str]]]
    bare: bool = False
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Exported:
    """What became of one slide."""

    slide_id: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes
    ----------
    skipped, failed
        (slide, reason).
    """

    out: str
    tool: str
    patches: str
    keys: tuple[str, ...]
    done: tuple[Exported, ...]
    skipped: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]


def export_store(
    store: Store,
    out: Path,
    exporter: Exporter,
    *,
    keys: Sequence[str] = (),
    patches: str | None = None,
    progress: Progress = lambda *_: None,
) -> ExportReport:
    """Write one patch set of a store below the folder `out`.

    Parameters
    ----------
    keys
        Feature keys; all but the density control where empty.
    patches
        Patch set; the store's only one, or `spots`, where None.

    Raises
    ------
    StoreError
        If the store has no such patch set or keys.
    MissingDependencyError
        If the format needs a library that is not installed.
    """
    exporter.check()
    check_writable(out)
    chosen, wanted, slides = _chosen(store, keys=keys, patches=patches)
    done: list[Exported] = []
    skipped: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    for i, slide_id in enumerate(slides):
        progress(slide_id, i, len(slides))
        try:
            outgoing = load_outgoing(store, slide_id, keys=wanted, patches=chosen)
            if not outgoing.columns and not exporter.bare:
                skipped.append((slide_id, f"it has no features of {', '.join(wanted) or 'any encoder'}"))
                continue
            files, notes = exporter.write(outgoing, out)
            done.append(Exported(slide_id, tuple(map(str, files)), tuple(notes)))
        except TissuaryError as error:
            log.info("%s", slide_id, exc_info=True)
            failed.append((slide_id, str(error)))
    progress("done", len(slides), len(slides))
    return ExportReport(str(out), exporter.tool, chosen, wanted, tuple(done), tuple(skipped), tuple(failed))


def _chosen(store: Store, *, keys: Sequence[str], patches: str | None) -> tuple[str, tuple[str, ...], list[str]]:
    """Patch set, keys and slides of an export."""
    chosen = store.patch_set(patches)
    slides = sorted({e.slide_id for e in store.entries if e.kind == "patches" and e.patches == chosen})
    if not slides:
        raise no_patch_set(store, chosen)
    have_keys = store.keys(chosen)
    for key in keys:
        if key not in have_keys:
            raise no_key(store, key, patches=chosen)
    wanted = tuple(keys) or tuple(key for key in have_keys if not key.startswith(DENSITY))
    return chosen, wanted, slides


def load_outgoing(store: Store, slide_id: str, *, keys: Sequence[str], patches: str) -> OutgoingSlide:
    """Open what a store holds of one slide, refused where features are not of its image and patches.

    Raises
    ------
    StoreError
        If a file is damaged, or rows do not belong together.
    """
    slide, place = store.slide(slide_id), store.patches(slide_id, patches=patches)
    have = {e.key for e in store.entries if (e.kind, e.patches, e.slide_id) == ("features", patches, slide_id)}
    columns = []
    for key in (key for key in keys if key in have):
        header = store.header(key, slide_id, patches=patches)
        features = store.features(key, slide_id, patches=patches)
        same = (header.slide_id, header.source_digest) == (slide_id, slide.source_digest)
        if not same or not isclose(header.slide_mpp, slide.mpp, rel_tol=SAME_MPP):
            msg = f"slide {slide_id}: features {key} were made from another image or scale; featurize it again"
            raise StoreError(msg)
        if header.patches_digest != place.digest or len(features) != len(place):
            msg = f"slide {slide_id}: features {key} belong to other patches than the store's"
            raise StoreError(msg)
        columns.append(Column(FeatureKey.parse(key), header, features))
    counted = expression_path(store.path, slide_id)
    counts = read_expression(counted) if patches == SPOTS and counted.exists() else None
    if counts is not None and (len(counts.barcode) != len(place) or (counts.barcode != place.barcode).any()):
        msg = f"slide {slide_id}: rows of the counts are not the spots of the patch file"
        raise StoreError(msg)
    return OutgoingSlide(
        slide,
        patches,
        place,
        tuple(columns),
        counts,
        _thumbnail(slide_path(store.path, slide_id)),
    )


def _thumbnail(path: Path) -> Pixels | None:
    """The thumbnail, or None of a slide that was imported without its image."""
    with open_h5(path, SLIDE) as file:
        if "thumbnail" not in file:
            return None
    return read_thumbnail(path)
