"""`tissuary compare`: every head and every control on the same folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import protocol_options as shared
from .output import OK, SOME_FAILED, console, print_json, progress_bar, result, say

if TYPE_CHECKING:
    from ..heads.comparison.comparison import Comparison
    from ..heads.comparison.plan import CompareOptions


def compare(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    heads: Annotated[
        list[str] | None, typer.Option("--heads", help="Heads, head:mode, or all. Controls always come along.")
    ] = None,
    protocol: Annotated[list[str] | None, typer.Option("--protocol", help="Protocols, such as strict.")] = None,
    backbone: Annotated[
        list[str] | None, typer.Option("--backbone", help="Which features, one or several, where there are several.")
    ] = None,
    views: shared.Views = None,
    view_sets: Annotated[
        list[str] | None,
        typer.Option("--view-sets", help="Sets of views, as 20x 20x+10x, in place of --views."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("report"),
    standardise: shared.Standardise = None,
    centring: shared.Centring = None,
    spot_weight: shared.SpotWeight = None,
    panel: shared.Panel = None,
    panel_size: shared.PanelSize = None,
    genes: Annotated[list[str] | None, typer.Option("--genes", help="Genes whose maps are drawn too.")] = None,
    seed: shared.Seed = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Folds trained at once, each in its own process.")] = 1,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: folds as tasks of a Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Of the Ray cluster.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train everything again, and take no cell of an earlier comparison.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON on stdout.")] = False,
) -> None:
    """Score heads and controls under a protocol; write report.html, results.json, results.parquet, provenance.json.

    What is trained is kept in OUT/cells, so that a comparison that was stopped, or gets more heads, goes on.
    """
    with progress_bar("compare") as progress:  # importing torch takes seconds
        from ..heads.comparison.plan import CompareOptions

        changes = shared.protocol_changes(
            standardise=standardise, centring=centring, spot_weight=spot_weight, panel=panel, panel_size=panel_size
        )
        options = CompareOptions(
            heads=tuple(heads or ("all",)),
            protocols=tuple(protocol or ("strict",)),
            backbones=tuple(backbone or ()),
            view_sets=_view_sets(views or (), view_sets or ()),
            seed=seed,
            genes=tuple(genes or ()),
            cells=None if fresh else (out / "cells").absolute(),
            jobs=jobs,
            engine=engine,
            address=address,
            **vars(changes),
        )
        comparison = run(store, options, out=out, progress=progress)
    if json:
        print_json(list(comparison.records))
    else:
        show(comparison)
        result(str(out / "report.html"))
    raise typer.Exit(SOME_FAILED if comparison.skipped else OK)


def _view_sets(views: Sequence[str], sets: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    from ..store.errors import ProtocolError

    if views and sets:
        msg = f"--views {' '.join(views)} and --view-sets {' '.join(sets)}: give one of them"
        raise ProtocolError(msg)
    return tuple(tuple(one.split("+")) for one in sets) or ((tuple(views),) if views else ())


def run(store: Path, options: CompareOptions, *, out: Path, progress: Callable[[str, int, int], None]) -> Comparison:
    """Compare and write the results."""
    from ..heads.comparison.compare import compare as run_compare
    from ..heads.comparison.results_file import write_provenance, write_results
    from ..heads.report.report import write_report
    from ..store import Store
    from ..store.files.atomic import check_writable

    opened = Store(store)
    check_writable(out)
    shared.settle_process(opened)
    comparison = run_compare(opened, options=options, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    write_results(comparison.records, out)
    write_provenance(comparison, out)
    write_report(comparison, out / "report.html")
    return comparison


def show(comparison: Comparison) -> None:
    """The leaderboard, what leaks, and what was left out, in the terminal."""
    from ..heads.report.terminal import leaderboard_tables

    out = console()
    for table in leaderboard_tables(comparison, width=out.width):
        out.print(table)
    for protocol in comparison.protocols:
        for leak in protocol.leaks:
            say(f"{protocol.name} leaks: {leak}")
    for warning in comparison.warnings:
        say(f"warning: {warning}")
    for head, reason in comparison.skipped:
        say(f"skipped {head}: {reason}")
