"""`tissuary status`: what a store holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import print_json, result, say

if TYPE_CHECKING:
    from ..store.catalog_file import Folder

_COLUMNS = ("patch set", "features", "slides", "patches", "dim", "type", "um/px", "field um", "fingerprint")

SAME = 1e-4
"""Relative difference up to which two numbers are shown as one."""


def status(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Show slides, patients, patch sets, features and counts of a store."""
    from ..store.catalog_file import saved_folders  # and not the store, which waits for numpy
    from ..store.choices import listed, plural

    folders = saved_folders(store)
    if folders is None:
        from ..store.catalog import load_folders  # opens what changed

        folders = load_folders(store)
    summary = summarise(store, folders)
    if json:
        print_json(summary)
        return
    patients = f"{plural(summary['patients'], 'patient')} ({summary['unknown_patients']} unknown)"
    size, scale = f"{summary['bytes'] / 2**20:.1f} MiB", _span(summary["mpp"])
    counts = f"{summary['with_counts']} with counts" + (f", at {scale} um/px" if summary["slides"] else "")
    result(f"{plural(summary['slides'], 'slide')} of {patients}, {counts}, {size} in {store}")
    if summary["slide_ids"]:
        result(f"slides {listed(summary['slide_ids'])}")
    for line in aligned([_COLUMNS, *(_cells(row, summary["slides"]) for row in summary["features"])]):
        result(line)
    for line in (line for row in summary["features"] for line in _differences(row)):
        result(line)
    for index in summary["indexes"]:
        result(f"index {index}")
    for problem in summary["problems"]:
        say(f"PROBLEM {problem}")


def summarise(root: Path, folders: Sequence[Folder]) -> dict[str, Any]:
    """The same as plain data, from the columns of each folder."""
    slides = [folder for folder in folders if folder.kind == "slide"]
    indexes = root / "indexes"
    patients = {patient for folder in slides for patient in folder.column("patient_id")}
    return {
        "store": str(root),
        "slides": sum(map(len, slides)),
        "slide_ids": [slide_id for folder in slides for slide_id in folder.column("slide_id")],
        "mpp": _ends([mpp for folder in slides for mpp in folder.column("mpp")]),
        "patients": len(patients),
        "unknown_patients": sum(p.startswith("unknown:") for p in patients),
        "with_counts": sum(len(folder) for folder in folders if folder.kind == "expression"),
        "bytes": sum(sum(folder.column("size")) for folder in folders),
        "features": [_features(folder) for folder in folders if folder.kind == "features" and len(folder)],
        "indexes": sorted(p.name for p in indexes.iterdir() if p.name[0] != ".") if indexes.is_dir() else [],
        "problems": [problem for folder in folders for problem in folder.column("problem") if problem],
    }


def _features(folder: Folder) -> dict[str, Any]:
    """What the files of one key say; `mpp`, `fov_um` and `upsampling` are the smallest and the largest of them."""
    return {
        "patches": folder.patches,
        "key": folder.key,
        "slides": len(folder),
        "rows": sum(folder.column("rows")),
        "dim": max(folder.column("dim")),
        "dtype": "/".join(sorted(set(folder.column("dtype")) - {""})),
        "mpp": _ends(folder.column("mpp")),
        "fov_um": _ends(folder.column("fov_um")),
        "upsampling": _ends(folder.column("upsampling")),
        "precisions": sorted(set(folder.column("precision")) - {""}),
        "fingerprints": sorted(set(folder.column("fingerprint")) - {""}),
    }


def _cells(row: dict[str, Any], slides: int) -> tuple[str, ...]:
    parts = [one.rpartition(":") for one in row["fingerprints"]]  # a declared one names its encoder before the digest
    prints = ", ".join(f"{encoder}{colon}{digest[:12]}" for encoder, colon, digest in parts)
    done, mpp, field = f"{row['slides']}/{slides}", _span(row["mpp"]), _span(row["fov_um"])
    return (row["patches"], row["key"], done, str(row["rows"]), str(row["dim"]), row["dtype"], mpp, field, prints)


def _differences(row: dict[str, Any]) -> Iterator[str]:
    """What differs between the slides of one key beside the scale: its features are then not of one making."""
    low, high = row["upsampling"]
    found = [f"up-sampled {low:.3g} to {high:.3g} times"] if high > low * (1 + SAME) else []
    for what, values in (("computed in", row["precisions"]), ("stored as", row["dtype"].split("/"))):
        if len(values) > 1:
            found.append(f"{what} {' and '.join(values)}")
    if found:
        yield f"{row['key']} on {row['patches']} differs between slides: {', '.join(found)}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value of files that can be read; 0 where there is none."""
    known = [value for value in values if value > 0]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _span(ends: tuple[float, float]) -> str:
    """One number, or both ends of what is more than rounding apart."""
    low, high = ends
    return f"{low:.4g}" if high <= low * (1 + SAME) else f"{low:.4g} to {high:.4g}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines whose columns start at the same place (rich would cost a quarter of the whole command)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
