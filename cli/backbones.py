"""`tissuary backbones`: the encoders that are known by name, their terms, and how each is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import console, print_json, result

if TYPE_CHECKING:
    from ..featurize.backbones.record import BackboneRecord


def backbones(
    key: Annotated[
        str | None, typer.Argument(help="One backbone, or a record file (.json); all where not given.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Print backbones: size, precision, licence, access, and whether this machine can build them."""
    from ..featurize.backbones.registry import BACKBONES, get_record

    chosen = [get_record(key)] if key else list(BACKBONES.values())
    if json:
        print_json([_plain(record) for record in chosen])
    elif key:
        _print_one(chosen[0], given=key)
    else:
        _print_table(chosen)


def _plain(record: BackboneRecord) -> dict[str, Any]:
    from ..featurize.backbones.weights import is_pinned, missing

    lacking = missing(record)
    told = {"terms": record.terms, "pinned": is_pinned(record)}
    return record.to_dict() | told | {"builds_here": lacking is None, "missing": lacking}


def _print_table(records: list[BackboneRecord]) -> None:
    from rich.table import Table

    from ..featurize.backbones.registry import UNAVAILABLE
    from ..featurize.backbones.weights import missing

    table = Table(box=None, pad_edge=False)
    for name in ("key", "dim", "input px", "tokens", "precision"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("dim", "input px") else "left")
    for name in ("licence", "access", "loads through", "builds here"):
        table.add_column(name)
    for record in records:
        table.add_row(
            record.key, str(record.dim), str(record.input_px), _tokens(record), record.precision, record.licence,
            "gated" if record.gated else "open", record.loader, "no" if missing(record) else "yes",
        )  # fmt: skip
    console().print(table)
    result(f"{len(records)} backbones; tissuary backbones KEY prints one, with the command that embeds with it")
    result(f"known, but not to be had: {', '.join(UNAVAILABLE)}; tissuary backbones NAME says why")


def _tokens(record: BackboneRecord) -> str:
    if record.token_grid is None:
        return "-"
    rows, columns = record.token_grid
    return f"{rows}x{columns}" + (f" + {record.prefix_tokens}" if record.prefix_tokens else "")


def _print_one(record: BackboneRecord, *, given: str) -> None:
    from ..featurize.backbones.weights import missing, source

    result(record.key)
    said = {"key", "licence", "output_licence", "gated", "note", "needs", "hub_id", "revision"}
    for name, value in record.to_dict().items():
        if name not in said and value not in (None, [], {}, 0):
            result(f"  {name}: {value}")
    result(f"  weights from: {source(record)}")
    result(f"  terms: {record.terms}")
    result(f"  not settled or not verified: {record.note or _unverified(record)}")
    lacking = missing(record)
    if record.loader == "remote":
        result(f"  cannot be built here: it needs {lacking}")
        return
    if lacking:
        result(f"  install first: {lacking}")
    if record.gated and record.hub_id:
        result(f"  ask for access on https://huggingface.co/{record.hub_id}, then: hf auth login")
    own = "" if record.loader == "embedded" else f" [--weights {record.key}=PATH]"
    result(f"  tissuary featurize COHORT --store STORE --backbone {given}{own}")


def _unverified(record: BackboneRecord) -> str:
    if record.loader == "embedded" or record.golden:
        return "nothing"
    return "no known input and output of the published weights is at hand"
