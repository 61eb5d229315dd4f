"""`tissuary protocols`: how heads are compared, and what each way leaks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from .output import print_json, result


def protocols(
    name: Annotated[str | None, typer.Argument(help="One protocol; all where not given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Print evaluation protocols: split, panel, target, what they declare and what they leak."""
    from ..heads.protocols.named import PROTOCOLS, get_protocol

    chosen = [get_protocol(name)] if name else list(PROTOCOLS.values())
    if json:
        print_json([asdict(one) for one in chosen])
        return
    for one in chosen:
        result(one.name)
        for field, value in asdict(one).items():
            if field == "name" or value is None or value == "":
                continue
            if not isinstance(value, tuple):
                result(f"  {field}: {value}")
            for item in value if isinstance(value, tuple) else ():
                result(f"  {field}: {':'.join(item) if isinstance(item, tuple) else item}")
            if field == "leaks" and not value:
                result("  leaks: nothing known")
