"""`tissuary compare`: every head and every control on the same folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .output import OK, SOME_FAILED, console, print_json, progress_bar, result, say

if TYPE_CHECKING:
    from ..heads.evaluation.compare import CompareOptions
    from ..heads.evaluation.comparison import Comparison


SMALL_BYTES = 64 * 2**20


def compare(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    heads: Annotated[
        list[str] | None, typer.Option("--heads", help="Heads, or all. Controls always come along.")
    ] = None,
    protocol: Annotated[list[str] | None, typer.Option("--protocol", help="Protocols, such as strict.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Which features, where there are several.")] = None,
    views: Annotated[list[str] | None, typer.Option("--views", help="Views side by side; all where not given.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("report"),
    standardise: Annotated[
        str | None, typer.Option("--standardise", help="slide or none, in place of what the protocol says of features.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is random.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the records as JSON on stdout.")] = False,
) -> None:
    """Score heads and controls under a protocol; write report.html, results.json and results.parquet."""
    from ..heads.evaluation.compare import CompareOptions

    options = CompareOptions(
        heads=tuple(heads or ("all",)),
        protocols=tuple(protocol or ("strict",)),
        backbone=backbone,
        views=tuple(views or ()),
        standardise=_standardisation(standardise),
        seed=seed,
    )
    comparison = run(store, options, out=out)
    if json:
        print_json(list(comparison.records))
    else:
        show(comparison)
        result(str(out / "report.html"))
    raise typer.Exit(SOME_FAILED if comparison.skipped else OK)


def _standardisation(text: str | None) -> Literal["slide", "none"] | None:
    from ..store.errors import ProtocolError

    choices: dict[str | None, Literal["slide", "none"] | None] = {None: None, "slide": "slide", "none": "none"}
    if text in choices:
        return choices[text]
    msg = f"--standardise {text!r}: choose slide or none"
    raise ProtocolError(msg)


def run(store: Path, options: CompareOptions, *, out: Path) -> Comparison:
    """Compare under a progress bar and write the results."""
    import torch

    from ..heads.evaluation.compare import compare as run_compare
    from ..heads.evaluation.report import write_report
    from ..heads.evaluation.results_file import write_results
    from ..store import Store

    opened = Store(store)
    if store.is_dir() and sum(entry.size for entry in opened.entries if entry.kind == "features") < SMALL_BYTES:
        torch.set_num_threads(1)  # heads on small cohorts are small: threads cost more than they give
    with progress_bar("compare") as progress:
        comparison = run_compare(opened, options=options, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    write_results(comparison.records, out)
    write_report(comparison, out / "report.html")
    return comparison


def show(comparison: Comparison) -> None:
    """The leaderboard, what leaks, and what was left out, in the terminal."""
    from ..heads.evaluation.leaderboard import leaderboard_tables

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
