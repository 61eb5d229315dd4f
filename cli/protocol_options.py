"""Options that `compare` and `train` share: features, and what is put in place of what a protocol says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..heads.protocols.changes import ProtocolChanges
    from ..store import Store

SMALL_BYTES = 64 * 2**20

Views = Annotated[list[str] | None, typer.Option("--views", help="Views side by side; all where not given.")]
Standardise = Annotated[
    str | None, typer.Option("--standardise", help="slide or none, in place of what the protocol says of features.")
]
Centring = Annotated[
    str | None, typer.Option("--centring", help="slide or none, in place of what the protocol says of targets.")
]
SpotWeight = Annotated[
    str | None, typer.Option("--spot-weight", help="depth or none, in place of what the protocol says.")
]
Panel = Annotated[
    str | None,
    typer.Option("--panel", help="A rule for genes, or a file that lists them, in place of the protocol's."),
]
PanelSize = Annotated[int | None, typer.Option("--panel-size", help="How many genes the rule takes.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is random.")]


def protocol_changes(
    *, standardise: str | None, centring: str | None, spot_weight: str | None, panel: str | None, panel_size: int | None
) -> ProtocolChanges:
    """Check words and read the list of genes, if it is a file.

    Raises
    ------
    ProtocolError
        If a word is none of those to choose from, or the list of genes cannot be read.
    """
    from ..heads.protocols.changes import ProtocolChanges
    from ..heads.protocols.panels.gene_lists import read_gene_list
    from ..heads.protocols.panels.rules import PANEL_RULES

    return ProtocolChanges(
        standardise=_choice("--standardise", standardise, "slide", "none"),
        centring=_choice("--centring", centring, "slide", "none"),
        spot_weight=_choice("--spot-weight", spot_weight, "depth", "none"),
        panel=panel if panel is None or panel in PANEL_RULES else read_gene_list(Path(panel)),
        panel_size=panel_size,
    )


def settle_process(store: Store) -> None:
    """Make this process one that trains: freed memory stays with it, and where features are few it has one thread.

    There, threads cost more than they give.
    """
    import torch

    from ..heads.engine.device import keep_freed_memory

    keep_freed_memory()
    if sum(entry.size for entry in store.entries if entry.kind == "features") < SMALL_BYTES:
        torch.set_num_threads(1)


def _choice(option: str, text: str | None, *choices: str) -> Any:
    """One of the words that a protocol's field may hold, or None."""
    from ..store.errors import ProtocolError

    if text is None or text in choices:
        return text
    msg = f"{option} {text!r}: choose {' or '.join(choices)}"
    raise ProtocolError(msg)
