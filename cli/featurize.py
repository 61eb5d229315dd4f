"""`tissuary featurize`: embed every patch of a cohort, once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .featurize_options import Format, Json, takes_featurize_options
from .output import BAD_INPUT, OK, SOME_FAILED, console, print_json, progress_bar, say

if TYPE_CHECKING:
    from ..featurize.dry_run import DryRun
    from ..featurize.options import FeaturizeOptions, FeaturizeReport


@takes_featurize_options
def featurize(
    source: Annotated[Path, typer.Argument(help="Folder, manifest or slide.")],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.")],
    options: Any = None,
    format: Format = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, how long, how large.")] = False,
    json: Json = False,
) -> None:
    """Embed every patch of every slide, once, into a store."""
    from dataclasses import asdict

    logging.getLogger("tissuary.featurize.sources.gaps").setLevel(
        logging.INFO
    )  # what was recognised, before work starts
    if dry_run:
        plan = run_dry(source, store, options, format=format)
        if json:
            print_json(asdict(plan))
        else:
            show_plan(plan)
        raise typer.Exit(OK if not plan.refused else SOME_FAILED if plan.slides else BAD_INPUT)
    report = run(source, store, options, format=format)
    if json:
        print_json(asdict(report))
    raise typer.Exit(SOME_FAILED if report.failed or report.left else OK)


def run(source: Path, store: Path, options: FeaturizeOptions, *, format: str) -> FeaturizeReport:
    """Featurize under a progress bar and say in words what was done."""
    from ..featurize.pipeline import featurize as run_featurize
    from ..store.choices import plural

    with progress_bar("featurize") as progress:
        report = run_featurize(source, store, options=options, format=format, progress=progress)
    say(f"{report.source}; {plural(len(report.done), 'slide')} in {report.seconds:.1f} s -> {report.store}")
    for backbone, licence in report.licences.items():
        say(f"  licence of {backbone}: {licence}")
    for slide in report.done:
        state = f"{slide.written} feature files written" if slide.written else "complete already"
        resumed = f", {slide.resumed} patches taken over from a killed run" if slide.resumed else ""
        say(
            f"  {slide.slide_id}: {slide.patches} patches, {slide.mpp:.4g} um/px ({slide.mpp_source}), {state}{resumed}"
        )
    _say_stages(report)
    if report.unknown_patients:
        say(f"  patient unknown: {', '.join(report.unknown_patients)} (give patient_id in a manifest)")
    for slide_id, cause in report.retried:
        say(f"  RETRIED {slide_id}: its worker died ({cause})")
    for slide_id, cause in report.left:
        say(f"  LEFT {slide_id}: {cause}")
    for slide_id, cause in report.failed:
        say(f"  FAILED {slide_id}: {cause}")
    return report


def _say_stages(report: FeaturizeReport) -> None:
    stages = [stage for stage in report.stages.stages if stage.count]
    if not stages:
        return
    parts = [f"{stage.name} {stage.seconds:.1f} s ({stage.rate:.0f} {stage.unit}/s)" for stage in stages]
    say(f"  stages (read, decode and resample on {report.stages.readers} threads): {', '.join(parts)}")
    say(f"  {report.stages.bottleneck}")


def run_dry(source: Path, store: Path, options: FeaturizeOptions, *, format: str) -> DryRun:
    """Plan under a progress bar."""
    from ..featurize.dry_run import dry_run

    with progress_bar("plan") as progress:
        return dry_run(source, store, options=options, format=format, progress=progress)


def show_plan(plan: DryRun) -> None:
    """Print a plan as a table."""
    from rich.table import Table

    table = Table(title=f"plan: {plan.source}")
    for heading in ("slide", "um/px", "patches", "missing files", "MB", "time"):
        left = heading in ("slide", "um/px", "patches")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for slide in plan.slides:
        patches = ", ".join(f"{count} {name}" for name, count in slide.patches.items())
        scale = f"{slide.mpp:.4g} ({slide.mpp_source})"
        table.add_row(
            slide.slide_id, scale, patches, str(slide.files), f"{slide.bytes / 1e6:.1f}", _duration(slide.seconds)
        )
    out = console()
    if plan.slides:
        out.print(table)
    rates = ", ".join(f"{name} {rate:.0f}/s" for name, rate in plan.patches_per_second.items())
    if rates:
        out.print(f"calibrated on {plan.device}, batch {plan.batch}, {plan.readers} readers: {rates}")
    if plan.slides:
        out.print(f"in all: {plan.bytes / 1e6:.1f} MB, about {_duration(plan.seconds)}")
    for slide_id, cause in plan.refused:
        out.print(f"REFUSED {slide_id}: {cause}", markup=False, soft_wrap=True)
    for name, reason in plan.left_out:
        out.print(f"NOT READ {name}: {reason}", markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
