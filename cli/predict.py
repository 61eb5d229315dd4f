"""`tissuary predict`: expression maps of slides, measured or not, from a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import BAD_INPUT, OK, SOME_FAILED, print_json, progress_bar, result, say

if TYPE_CHECKING:
    from ..heads.prediction.predict import PredictReport, SlideReport


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of `tissuary train`.")],
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    patches: Annotated[
        str | None, typer.Option("--patches", help="Patch set, such as grid-112um; the only one, or spots, by default.")
    ] = None,
    slides: Annotated[
        list[str] | None, typer.Option("--slides", help="Slides; all that have the features where not given.")
    ] = None,
    genes: Annotated[
        list[str] | None,
        typer.Option("--genes", help="Genes drawn, and measured in QuPath; the .h5ad has all that the run predicts."),
    ] = None,
    block_rows: Annotated[int, typer.Option("--block-rows", min=1, help="Spots predicted together.")] = 4096,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; as trained by default.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw maps.")] = True,
    scale: Annotated[
        str,
        typer.Option("--scale", help="Colour bar of measured and predicted values: shared, or own for each."),
    ] = "shared",
    geojson: Annotated[bool, typer.Option("--geojson/--no-geojson", help="Write GeoJSON for QuPath.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Predict expression; each slide becomes SLIDE.h5ad, maps as PNG, and SLIDE.geojson for QuPath.

    What is there is kept, and what a killed job began goes on.
    """
    from ..heads.prediction.predict import PredictOptions
    from ..heads.prediction.predict import predict as run_prediction

    options = PredictOptions(
        patches=patches,
        slides=tuple(slides or ()),
        genes=tuple(genes or ()),
        block_rows=block_rows,
        device=device,
        pictures=pictures,
        geojson=geojson,
        scale=scale,
    )
    with progress_bar("predict") as progress:
        report = run_prediction(run, store, out, options=options, progress=progress)
    if json:
        print_json(asdict(report))
    else:
        _show(report)
    for slide_id, reason in report.failed:
        say(f"FAILED {slide_id}: {reason}")
    raise typer.Exit(OK if not report.failed else SOME_FAILED if report.done else BAD_INPUT)


def _show(report: PredictReport) -> None:
    from ..store.choices import plural

    noun, of = ("spot", "") if report.patches == "spots" else ("tile", f" of {report.patches}")
    for one in report.done:
        result(f"{one.slide_id}: {plural(one.rows, noun)}{of}, {_trust(one)} -> {plural(len(one.files), 'file')}")
        for note in one.notes:
            say(f"  {note}")
    kept = sum(one.kept for one in report.done)
    there = f" ({kept} predicted before)" if kept else ""
    result(f"{plural(len(report.done), 'slide')}{there}, maps of {', '.join(report.genes)} -> {report.out}")


def _trust(one: SlideReport) -> str:
    """How far a slide's maps can be trusted; no measure of it where the slide or its patient was trained on."""
    overlap = one.training_overlap
    if overlap.trained:
        return f"{overlap.words}: this is no test of a new patient"
    unlike = f"{one.flagged:.0%} flagged as unlike the training data" if one.rows else "nothing to predict"
    return unlike if overlap.kind == "none" else f"{unlike}; {overlap.words}"
