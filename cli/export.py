"""`tissuary export`: a store's patches, features and counts in the files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import BAD_INPUT, OK, SOME_FAILED, print_json, progress_bar, say


def export(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    format: Annotated[str, typer.Option("--format", help="trident, stamp, h5ad or spatialdata.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Feature keys; all but the density control where not given.")
    ] = None,
    patches: Annotated[
        str | None, typer.Option("--patches", help="Patch set; the only one, or spots, by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Export features for TRIDENT, STAMP, scanpy (h5ad) or SpatialData."""
    from dataclasses import asdict

    from ..store import Store
    from ..store.choices import plural
    from ..store.exchange.exporting import export_store
    from ..store.exchange.registry import exporter_named

    exporter, opened = exporter_named(format), Store(store)
    with progress_bar("export") as progress:
        report = export_store(opened, out, exporter, keys=key or (), patches=patches, progress=progress)
    if json:
        print_json(asdict(report))
    files = sum(len(one.files) for one in report.done)
    slides = f"{plural(len(report.done), 'slide')} of {report.patches}"
    say(f"{report.tool}: {slides}, {plural(files, 'file')} -> {report.out}")
    others = [name for name in opened.patch_sets if name != report.patches]
    if others and patches is None:
        say(f"  other patch sets stay: {', '.join(others)} (--patches NAME)")
    for one in report.done:
        for note in one.notes:
            say(f"  {one.slide_id}: {note}")
    for slide_id, reason in report.skipped:
        say(f"  SKIPPED {slide_id}: {reason}")
    for slide_id, reason in report.failed:
        say(f"  FAILED {slide_id}: {reason}")
    raise typer.Exit(OK if not report.failed else SOME_FAILED if report.done else BAD_INPUT)
