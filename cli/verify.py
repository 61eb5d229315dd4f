"""`tissuary verify`: re-read everything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .output import OK, SOME_FAILED, print_json, progress_bar, result, say


def verify(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Re-read a whole store: checksums, NaN, row counts, fingerprints, order of the counts, catalogue, indexes."""
    from ..store.verify.verify import examine_store

    with progress_bar("verify") as progress:
        found = examine_store(store, progress)
    if json:
        print_json(asdict(found) | {"store": str(store), "whole": not found.problems})
    else:
        for problem in found.problems:
            result(f"PROBLEM {problem}")
        state = f"{len(found.problems)} problems" if found.problems else "all whole"
        result(f"{state}: {found.files} files, {found.size_bytes / 2**20:.1f} MiB read in {store}")
        for note in found.notes:
            say(f"note: {note}")
    raise typer.Exit(SOME_FAILED if found.problems else OK)
