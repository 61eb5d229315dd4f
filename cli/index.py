"""`tissuary index`: make feature keys searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, say


def index(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    key: Annotated[str | None, typer.Option("--key", help="Feature key; all keys where not given.")] = None,
    patches: Annotated[str | None, typer.Option("--patches", help="Patch set; the only one by default.")] = None,
    standardise: Annotated[
        str, typer.Option("--standardise", help="Whose statistics z-score the features: cohort or slide.")
    ] = "cohort",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Build exact search indexes over features, standardisation stored inside."""
    from ..store import Store

    opened = Store(store)
    made = build_indexes(opened, key=key, patches=patches or opened.default_patches, standardised=standardise)
    if json:
        print_json(made)
    for one in made:
        say(f"index {one['name']}: {one['rows']} patches of {one['slides']} slides, standardised within {standardise}")


def build_indexes(store: object, *, key: str | None, patches: str, standardised: str) -> list[dict[str, object]]:
    """Index one key, or every key but the density control."""
    from ..store import Store
    from ..store.errors import StoreError

    assert isinstance(store, Store)
    keys = [key] if key else [k for k in store.keys(patches) if not k.startswith("haematoxylin@")]
    if not keys:
        sets = ", ".join(store.patch_sets) or "none: featurize first"
        msg = f"{store.path} has no features on patch set {patches!r}; choose one with `--patches`: {sets}"
        raise StoreError(msg)
    made: list[dict[str, object]] = []
    for one in keys:
        built = store.build_index(one, patches=patches, standardised=standardised)
        made.append({"name": built.record.name, "rows": built.flat.ntotal, "slides": len(built.record.slide_ids)})
    return made
