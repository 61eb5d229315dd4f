"""`tissuary search`: look-alikes of a patch across the cohort."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import console, print_json

if TYPE_CHECKING:
    from ..store import Store


def search(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    slide: Annotated[str, typer.Option("--slide", help="Slide of the query.")],
    patch: Annotated[str, typer.Option("--patch", help="Row of the query on its slide, or its barcode.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Look-alikes wanted.")] = 10,
    key: Annotated[str | None, typer.Option("--key", help="Feature key; the finest view where not given.")] = None,
    patches: Annotated[str | None, typer.Option("--patches", help="Patch set; the only one by default.")] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="Leave out the query's own patient or slide.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Find the patches that look most like one patch; the query itself is never among them."""
    from ..store import Store

    opened = Store(store)
    patches = patches or opened.default_patches
    key = key or default_key(opened, patches)
    row = _row(opened, slide, patch, patches=patches)
    hits = opened.search(slide, row, k=k, key=key, patches=patches, exclude=exclude)
    if json:
        query = {"slide_id": slide, "patch": row, "key": key, "patches": patches, "exclude": exclude}
        print_json({"query": query, "hits": [asdict(hit) for hit in hits]})
        return
    from rich.table import Table

    table = Table(
        "rank", "slide", "patient", "patch", "x um", "y um", "distance", box=None, title=f"{key} {slide}:{row}"
    )
    for hit in hits:
        position = (f"{hit.x_um:.0f}", f"{hit.y_um:.0f}")
        table.add_row(str(hit.rank), hit.slide_id, hit.patient_id, str(hit.patch), *position, f"{hit.distance:.4f}")
    console().print(table)


def default_key(store: Store, patches: str) -> str:
    """The finest view of the store's only backbone.

    Raises
    ------
    StoreError
        If there are several backbones, or none.
    """
    from ..heads.evaluation.feature_choice import feature_keys

    return feature_keys(store, patches=patches)[0]


def _row(store: Store, slide: str, patch: str, *, patches: str) -> int:
    """A row from its number or barcode."""
    import numpy as np

    from ..store.errors import StoreError

    if patch.isdecimal():
        return int(patch)
    found = np.flatnonzero(store.patches(slide, patches=patches).barcode == patch)
    if not len(found):
        msg = f"slide {slide!r} has no patch {patch!r} in {patches!r}: give a row number or a barcode"
        raise StoreError(msg)
    return int(found[0])
