"""`tissuary doctor`: what this machine can do, what a plan lacks on it, and the line to run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import OK, SOME_FAILED, console, print_json, result

if TYPE_CHECKING:
    from ..featurize.doctor import Finding


def doctor(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="A backbone, or a record file, that is to be run here.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="A local file of its weights.")] = None,
    store: Annotated[Path, typer.Option("--store", help="Where the store lies, or would lie.")] = Path("store"),
    patches: Annotated[int, typer.Option("--patches", help="Patches to embed, over all slides.")] = 10_000,
    views: Annotated[int, typer.Option("--views", help="How many views of each.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Look at this machine and, with `--backbone`, at what that plan lacks; exit code 1 if it lacks something."""
    from ..featurize.backbones.registry import get_record
    from ..featurize.doctor import checked_positive, checkup, line_to_run, machine

    found = {"machine": machine(store)}
    line = None
    if backbone is not None:
        record = get_record(backbone)
        patches, views = checked_positive("--patches", patches), checked_positive("--views", views)
        found[record.key] = checkup(record, store=store, patches=patches, views=views, weights=weights)
        line = line_to_run(record, store=store, given=backbone, weights=weights)
    lacking = any(finding.state == "missing" for finding in list(found.values())[-1])
    if json:
        plain = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        print_json({"findings": plain, "line": line, "complete": not lacking})
    else:
        for name, findings in found.items():
            _print(name, findings)
        if line is not None:
            result(f"then: {line}" if lacking else line)
    raise typer.Exit(SOME_FAILED if lacking else OK)


def _print(name: str, findings: tuple[Finding, ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=name, title_justify="left")
    for column in ("state", "what", "found", "what to do"):
        table.add_column(column, no_wrap=column == "what")
    for finding in findings:
        table.add_row(finding.state, *(escape(text) for text in (finding.name, finding.found, finding.mend)))
    console().print(table)
