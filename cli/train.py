"""`tissuary train`: one head on all slides that can be trained on, saved as a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import protocol_options as shared
from .output import print_json, progress_bar, result, say

if TYPE_CHECKING:
    from ..heads.prediction.train import TrainReport


def train(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    head: Annotated[str, typer.Option("--head", help="A head, head:mode, or head:option=value")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run in it is replaced.")],
    protocol: Annotated[
        str, typer.Option("--protocol", help="Whose genes, target and preprocessing are taken.")
    ] = "strict",
    backbone: Annotated[str | None, typer.Option("--backbone", help="Which features, where there are several.")] = None,
    views: shared.Views = None,
    slides: Annotated[
        list[str] | None, typer.Option("--slides", help="Slides; all with counts where not given.")
    ] = None,
    patches: Annotated[
        str | None, typer.Option("--patches", help="Patch set that was measured; the only one, or spots, by default.")
    ] = None,
    panel: shared.Panel = None,
    panel_size: shared.PanelSize = None,
    standardise: shared.Standardise = None,
    centring: shared.Centring = None,
    spot_weight: shared.SpotWeight = None,
    seed: shared.Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Train one head on every slide with counts, prepared as `compare` prepares training slides.

    Nothing is held out: how good such a head is, `tissuary compare` tells.
    """
    with progress_bar("train") as progress:  # importing torch takes seconds
        from ..heads.prediction.train import TrainOptions
        from ..heads.prediction.train import train as run_training
        from ..store import Store

        opened = Store(store)
        shared.settle_process(opened)
        changes = shared.protocol_changes(
            standardise=standardise, centring=centring, spot_weight=spot_weight, panel=panel, panel_size=panel_size
        )
        options = TrainOptions(
            head=head,
            protocol=protocol,
            backbone=backbone,
            views=tuple(views or ()),
            patches=patches,
            slides=tuple(slides or ()),
            seed=seed,
            **vars(changes),
        )
        report = run_training(opened, out, options=options, progress=progress)
    if json:
        print_json(asdict(report))
    else:
        result(_said(report))
        result(f"  tissuary predict {report.out} {store} --out maps")
    for warning in report.warnings:
        say(f"warning: {warning}")


def _said(report: TrainReport) -> str:
    """What was trained on what, in one line."""
    from ..store.choices import plural

    slides, patients = plural(len(report.slides), "slide"), plural(len(report.patients), "patient")
    rows, genes = plural(report.spots, "spot"), plural(report.genes, "gene")
    on = f"{report.head} on {rows} of {slides} of {patients}, {genes}, {', '.join(report.keys)}"
    return f"{on}: {report.seconds:.1f} s -> {report.out}"
