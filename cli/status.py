"""`tissuary status`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import console, print_json, result, say


def status(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Show slides, patients, patch sets, features and counts of a store."""
    from ..store import Store

    summary = summarise(Store(store))
    if json:
        print_json(summary)
        return
    from rich.table import Table

    out = console()
    patients = f"{summary['patients']} patients ({summary['unknown_patients']} unknown)"
    size = f"{summary['bytes'] / 2**20:.1f} MiB"
    result(f"{summary['slides']} slides of {patients}, {summary['with_counts']} with counts, {size} in {store}")
    table = Table("patch set", "features", "slides", "patches", "dim", "type", "um/px", "fingerprint", box=None)
    for row in summary["features"]:
        table.add_row(
            row["patches"],
            row["key"],
            f"{row['slides']}/{summary['slides']}",
            str(row["rows"]),
            str(row["dim"]),
            row["dtype"],
            f"{row['mpp']:g}",
            ", ".join(print_[:12] for print_ in row["fingerprints"]),
        )
    out.print(table)
    for index in summary["indexes"]:
        out.print(f"index {index}")
    for problem in summary["problems"]:
        say(f"PROBLEM {problem}")


def summarise(store: Any) -> dict[str, Any]:
    """The same as plain data."""
    entries = store.entries
    slides = [e for e in entries if e.kind == "slide"]
    groups = sorted({(e.patches, e.key) for e in entries if e.kind == "features"})
    features = []
    for patches, key in groups:
        own = [e for e in entries if (e.patches, e.key) == (patches, key)]
        features.append(
            {
                "patches": patches,
                "key": key,
                "slides": len(own),
                "rows": sum(e.rows for e in own),
                "dim": max(e.dim for e in own),
                "dtype": "/".join(sorted({e.dtype for e in own if e.dtype})),
                "mpp": max(e.mpp for e in own),
                "fingerprints": sorted({e.fingerprint for e in own if e.fingerprint}),
            }
        )
    indexes = store.path / "indexes"
    patients = {e.patient_id for e in slides}
    return {
        "store": str(store.path),
        "slides": len(slides),
        "patients": len(patients),
        "unknown_patients": sum(p.startswith("unknown:") for p in patients),
        "with_counts": sum(e.kind == "expression" for e in entries),
        "bytes": sum(e.size for e in entries),
        "features": features,
        "indexes": sorted(p.name for p in indexes.iterdir() if p.name[0] != ".") if indexes.is_dir() else [],
        "problems": [e.problem for e in entries if e.problem],
    }
