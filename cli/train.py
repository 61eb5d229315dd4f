"""`tissuary train`: one head on all slides that can be trained on, saved as a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .compare import SMALL_BYTES, _choice, _panel
from .output import print_json, result, say


def train(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    head: Annotated[str, typer.Option("--head", help="A head, head:mode, or head:option=value,...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run in it is replaced.")],
    protocol: Annotated[
        str, typer.Option("--protocol", help="Whose genes, target and preprocessing are taken.")
    ] = "strict",
    backbone: Annotated[str | None, typer.Option("--backbone", help="Which features, where there are several.")] = None,
    views: Annotated[list[str] | None, typer.Option("--views", help="Views side by side; all where not given.")] = None,
    slides: Annotated[
        list[str] | None, typer.Option("--slides", help="Slides; all with counts where not given.")
    ] = None,
    patches: Annotated[str, typer.Option("--patches", help="Patch set that was measured.")] = "spots",
    panel: Annotated[
        str | None,
        typer.Option("--panel", help="A rule for genes, or a file that lists them, in place of the protocol's."),
    ] = None,
    panel_size: Annotated[int | None, typer.Option("--panel-size", help="How many genes the rule takes.")] = None,
    standardise: Annotated[
        str | None, typer.Option("--standardise", help="slide or none, in place of what the protocol says of features.")
    ] = None,
    centring: Annotated[
        str | None, typer.Option("--centring", help="slide or none, in place of what the protocol says of targets.")
    ] = None,
    spot_weight: Annotated[
        str | None, typer.Option("--spot-weight", help="depth or none, in place of what the protocol says.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is random.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train one head on every slide with counts, prepared as `compare` prepares training slides.

    Nothing is held out: how good such a head is, `tissuary compare` tells.
    """
    import torch

    from ..heads.prediction.training import TrainOptions
    from ..heads.prediction.training import train as run_training
    from ..store import Store

    opened = Store(store)
    if store.is_dir() and sum(entry.size for entry in opened.entries if entry.kind == "features") < SMALL_BYTES:
        torch.set_num_threads(1)  # heads on small cohorts are small: threads cost more than they give
    options = TrainOptions(
        head=head,
        protocol=protocol,
        backbone=backbone,
        views=tuple(views or ()),
        patches=patches,
        slides=tuple(slides or ()),
        standardise=_choice("--standardise", standardise, "slide", "none"),
        centring=_choice("--centring", centring, "slide", "none"),
        spot_weight=_choice("--spot-weight", spot_weight, "depth", "none"),
        panel=_panel(panel),
        panel_size=panel_size,
        seed=seed,
    )
    report = run_training(opened, out, options=options)
    if json:
        print_json(asdict(report))
    else:
        result(
            f"{report.head} on {report.spots} spots of {len(report.slides)} slides of {len(report.patients)} patients, "
            f"{report.genes} genes, {', '.join(report.keys)}: {report.seconds:.1f} s -> {report.out}"
        )
        result(f"  tissuary predict {report.out} STORE --out DIR")
    for warning in report.warnings:
        say(f"warning: {warning}")
