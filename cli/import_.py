"""`tissuary import`: patches and features that other tools made, into a store."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import BAD_INPUT, OK, SOME_FAILED, print_json, progress_bar, say

if TYPE_CHECKING:
    from ..store.exchange.foreign import Declared, Look
    from ..store.exchange.importing import ImportReport


def import_(
    path: Annotated[Path, typer.Argument(help="Folder that the other tool wrote, or one file of it.")],
    format: Annotated[str, typer.Option("--format", help="trident, clam, stamp, hest or triplex.")],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.")],
    mpp: Annotated[
        float | None,
        typer.Option(
            "--mpp", help="um per level-0 pixel of all slides; needed where neither file, image nor store says."
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Encoder that made the features; needed for clam, hest and triplex.")
    ] = None,
    patch_px: Annotated[
        float | None,
        typer.Option(
            "--patch-px", help="Side of a patch in level-0 pixels; needed where no file says, as for triplex."
        ),
    ] = None,
    coords: Annotated[
        Path | None, typer.Option("--coords", help="Folder of the patches files, where they lie apart (clam, hest).")
    ] = None,
    slides: Annotated[
        Path | None, typer.Option("--slides", help="Folder of the slides' images: scale, size, thumbnail.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option("--patients", help="CSV with columns slide_id, patient_id and perhaps mpp.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(
            "--view",
            help="Name of the view, as 128um-0.5: keeps slides of slightly different scale under one key; native for "
            "level-0 pixels of any scale.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Name of the encoder in the store, where its own is taken or cannot be one."),
    ] = None,
    patches: Annotated[
        str | None, typer.Option("--patches", help="Name of the patch set, where the usual one is taken.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Import patches and features of TRIDENT, CLAM, STAMP, HEST or TRIPLEX into a store.

    What their files do not say (scale, encoder) must be declared, and is recorded as declared.
    """
    from dataclasses import asdict

    from ..store.exchange.foreign import Declared
    from ..store.exchange.importing import import_files
    from ..store.exchange.registry import importer_named

    importer = importer_named(format)
    patient_of, mpp_of = read_patients(patients) if patients is not None else ({}, {})
    declared = Declared(mpp, mpp_of, encoder, patch_px, view, name, patches, patient_of)
    with progress_bar("import") as progress:
        report = import_files(
            path, store, importer, declared=declared, coords=coords, look=slide_looks(slides), progress=progress
        )
    if json:
        print_json(asdict(report))
    _say(report, declared)
    raise typer.Exit(OK if not report.failed else SOME_FAILED if report.done else BAD_INPUT)


def _say(report: ImportReport, declared: Declared) -> None:
    """Say in words what was imported."""
    from ..featurize.sources.images import without_image_suffix
    from ..store.choices import plural
    from ..store.naming import UNKNOWN_PATIENT, look_alike_warning

    say(f"{report.tool}: {plural(len(report.done), 'file')} -> {report.store}")
    for one in report.done:
        what = f"{one.key} {one.shape} {one.dtype}" if one.key else f"{one.shape[0]} patches"
        state = "" if one.written else ", in the store already"
        said = f", declared {', '.join(one.declared)}" if one.declared else ""
        say(f"  {one.slide_id}: {what} on {one.patches}, {one.mpp:g} um/px ({one.mpp_source}){said}{state}")
        for note in one.notes:
            say(f"    {note}")
    keys = sorted({one.key for one in report.done if one.key}) if declared.view is None else []
    for encoder, same in groupby(keys, key=lambda key: key.split("@")[0]):
        if len(some := list(same)) > 1:
            say(
                f"  {encoder} came under several keys, {', '.join(some)}: --view keeps slides of similar scale together"
            )
    unknown = {one.slide_id for one in report.done if one.patient_id.startswith(UNKNOWN_PATIENT)}
    if unknown:
        names = f"{', '.join(sorted(unknown)[:5])}{', ...' if len(unknown) > 5 else ''}"
        say(f"  {plural(len(unknown), 'slide')} without a patient: {names}. Name patients with --patients FILE.csv")
    done = {one.slide_id for one in report.done}
    strange = sorted(name for name in declared.patient_of if not {name, without_image_suffix(name)} & done)
    if strange:
        say(f"  --patients names slides that were not imported: {', '.join(strange[:5])} ({len(strange)} in all)")
    alike = look_alike_warning(one.patient_id for one in report.done)
    if alike:
        say(f"  {alike}")
    for name, reason in report.skipped:
        say(f"  SKIPPED {name}: {reason}")
    for name, reason in report.failed:
        say(f"  FAILED {name}: {reason}")


def read_patients(path: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Patient and um/px by slide, from a CSV with the columns slide_id, patient_id and perhaps mpp.

    A slide is named with or without the ending of its image.
    """
    import csv

    from ..featurize.sources.images import without_image_suffix
    from ..store.errors import CohortError
    from ..store.naming import known_text, patient_name

    patient_of: dict[str, Any] = {}
    mpp_of: dict[str, Any] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            columns = [name.strip() for name in next(lines, [])]
            rows = [dict(zip(columns, line, strict=False)) for line in lines if any(line)]
        for row in rows:
            written = row["slide_id"].strip()
            mpp = known_text(row.get("mpp"))
            for found, value in ((patient_of, patient_name(row["patient_id"])), (mpp_of, mpp and float(mpp))):
                for slide_id in dict.fromkeys((written, without_image_suffix(written))) if value else ():
                    if found.setdefault(slide_id, value) != value:
                        msg = f"slide {slide_id} has both {found[slide_id]} and {value}"
                        raise ValueError(msg)
    except (OSError, KeyError, ValueError) as error:
        wrong = f"no column {error}" if isinstance(error, KeyError) else error
        msg = f"{path} is no table of patients ({wrong}): wanted CSV with slide_id, patient_id, and mpp where known"
        raise CohortError(msg) from error
    return patient_of, mpp_of


def slide_looks(folder: Path | None) -> Look:
    """How an import looks at the image of a slide, by the image's name in `folder`."""
    if folder is None:
        return lambda _: None
    import functools

    from ..featurize.sources.images import slide_samples
    from ..featurize.sources.sample import LeftOut, Refused

    found = {one.slide_id: one for one in slide_samples(folder) if not isinstance(one, LeftOut)}

    @functools.lru_cache(maxsize=1)
    def look(slide_id: str) -> Any:
        one = found.get(slide_id)
        if isinstance(one, Refused):
            raise one.cause
        return None if one is None else _look_at(one.image)

    return look


def _look_at(image: Path) -> Any:
    from ..featurize.ingest import source_digest
    from ..featurize.slides.open import open_slide
    from ..featurize.slides.thumbnail import read_thumbnail
    from ..store.exchange.foreign import SlideMetadata

    with open_slide(image) as slide:
        return SlideMetadata(
            slide.width,
            slide.height,
            slide.metadata_mpp,
            str(image),
            source_digest(image),
            read_thumbnail(slide),
            slide.bounds_px or (0, 0, slide.width, slide.height),
        )
