"""`tissuary featurize`: embed every patch of a cohort, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import OK, SOME_FAILED, print_json, progress_bar, say

if TYPE_CHECKING:
    from ..featurize.options import FeaturizeOptions, FeaturizeReport

Format = Annotated[str, typer.Option("--format", help="auto, manifest, st or slides.")]
PitchUm = Annotated[float | None, typer.Option("--pitch-um", help="Spot pitch in um; gives the scale of spot arrays.")]
Mpp = Annotated[float | None, typer.Option("--mpp", help="um per level-0 pixel, for slides that do not say.")]
PatchChoice = Annotated[str, typer.Option("--patches", help="auto, spots, grid or both.")]
Views = Annotated[list[str] | None, typer.Option("--views", help="Views, such as 20x 10x 5x, native, 224um-4.7.")]
Layout = Annotated[str, typer.Option("--layout", help="context (20x 10x 5x) or zoom.")]
Backbones = Annotated[list[str] | None, typer.Option("--backbone", help="Registry keys or record files (.json).")]
Weights = Annotated[list[str] | None, typer.Option("--weights", help="KEY=PATH of local weights, or KEY=random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
Name = Annotated[str | None, typer.Option("--as", help="Store the backbone's features under this name.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def featurize(
    source: Annotated[Path, typer.Argument(help="Folder, manifest or slide.")],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.")],
    format: Format = "auto",
    pitch_um: PitchUm = None,
    mpp: Mpp = None,
    patches: PatchChoice = "auto",
    views: Views = None,
    layout: Layout = "context",
    backbone: Backbones = None,
    weights: Weights = None,
    device: Device = "auto",
    name: Name = None,
    json: Json = False,
) -> None:
    """Embed every patch of every slide, once, into a store."""
    from dataclasses import asdict

    options = make_options(
        pitch_um=pitch_um,
        mpp=mpp,
        patches=patches,
        views=views,
        layout=layout,
        backbone=backbone,
        weights=weights,
        device=device,
        name=name,
    )
    report = run(source, store, options, format=format)
    if json:
        print_json(asdict(report))
    raise typer.Exit(SOME_FAILED if report.failed else OK)


def make_options(
    *,
    pitch_um: float | None,
    mpp: float | None,
    patches: str,
    views: list[str] | None,
    layout: str,
    backbone: list[str] | None,
    weights: list[str] | None,
    device: str,
    name: str | None,
) -> FeaturizeOptions:
    """Options from the command line."""
    from ..featurize.options import FeaturizeOptions
    from ..store.errors import CohortError

    by_key: dict[str, str] = {}
    for text in weights or []:
        key, equals, path = text.partition("=")
        if not equals or not path:
            msg = f"--weights {text!r}: wanted KEY=PATH, for example --weights uni=weights/uni.safetensors"
            raise CohortError(msg)
        by_key[key] = path
    return FeaturizeOptions(
        views=tuple(views or ()),
        layout=layout,
        patches=patches,
        backbones=tuple(backbone or ("stain-texture",)),
        weights=by_key,
        device=device,
        mpp=mpp,
        pitch_um=pitch_um,
        name=name,
    )


def run(source: Path, store: Path, options: FeaturizeOptions, *, format: str) -> FeaturizeReport:
    """Featurize under a progress bar and say in words what was done."""
    from ..featurize.pipeline import featurize as run_featurize

    with progress_bar("featurize") as progress:
        report = run_featurize(source, store, options=options, format=format, progress=progress)
    say(f"{report.source}; {len(report.done)} slides in {report.seconds:.1f} s -> {report.store}")
    for backbone, licence in report.licences.items():
        say(f"  licence of {backbone}: {licence}")
    for slide in report.done:
        state = f"{slide.written} feature files written" if slide.written else "complete already"
        say(f"  {slide.slide_id}: {slide.patches} patches, {slide.mpp:.4g} um/px ({slide.mpp_source}), {state}")
    if report.unknown_patients:
        say(f"  patient unknown: {', '.join(report.unknown_patients)} (give patient_id in a manifest)")
    for slide_id, cause in report.failed:
        say(f"  FAILED {slide_id}: {cause}")
    return report
