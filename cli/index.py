"""`tissuary index`: make feature keys searchable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import BAD_INPUT, OK, SOME_FAILED, print_json, result, say

if TYPE_CHECKING:
    from ..store import Store
    from ..store.search.lookup import Built
    from ..store.search.record import BuildOptions


def index(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    key: Annotated[str | None, typer.Option("--key", help="Feature key; all keys where not given.")] = None,
    patches: Annotated[str | None, typer.Option("--patches", help="Patch set; the only one by default.")] = None,
    standardise: Annotated[
        str | None,
        typer.Option("--standardise", help="Whose statistics z-score the features: cohort (default), slide or none."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="cosine (default), or ip: inner product.")] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="exact, ivf (inverted lists), or auto (default): ivf above 1,000,000 patches."),
    ] = None,
    recall: Annotated[
        float | None, typer.Option("--recall", help="Share of the true ten nearest that ivf is to find (0.99).")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda: where the report's search runs.")] = "cpu",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build again from all slides, where new ones would be added.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Build search indexes over features, or add new slides to them; what is not said stays as an index has it."""
    from ..store import Store
    from ..store.errors import TissuaryError

    opened = Store(store)
    patches = opened.patch_set(patches)
    made: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    given = {"standardise": standardise, "metric": metric, "kind": kind, "recall": recall}
    for one in _keys(opened, key, patches=patches):
        try:
            standardised, options = _settings(opened, one, given, patches=patches, device=device, rebuild=rebuild)
            built = _build(opened, one, patches=patches, standardised=standardised, options=options)
        except TissuaryError as error:
            if key:
                raise
            failed.append((one, str(error)))
            continue
        made.append(_as_json(built))
        if not json:
            for line in index_words(built):
                result(line)
    if json:
        print_json(made)
    for one, reason in failed:
        say(f"FAILED {one}: {reason}")
    raise typer.Exit(OK if not failed else SOME_FAILED if made else BAD_INPUT)


def _keys(store: Store, key: str | None, *, patches: str) -> list[str]:
    """The key that was named, or every key of vectors but the density control."""
    from ..store.errors import StoreError

    if key:
        return [key]
    mine = [e for e in store.entries if (e.kind, e.patches) == ("features", patches) and not e.problem]
    tokens = {e.key for e in mine if e.tokens}
    for one in sorted(tokens):
        say(f"skipped {one}: it holds token grids, and an index needs one vector a patch")
    keys = [one for one in store.keys(patches) if one not in tokens and not one.startswith("haematoxylin@")]
    if not keys:
        sets = ", ".join(store.patch_sets) or "none: featurize first"
        msg = f"{store.path} has no features to index on patch set {patches!r}; choose one with `--patches`: {sets}"
        raise StoreError(msg)
    return keys


def _settings(
    store: Store, key: str, given: dict[str, Any], *, patches: str, device: str, rebuild: bool
) -> tuple[str, BuildOptions]:
    """What was asked for; where nothing was, what the index has that is there; else the defaults."""
    from ..store.errors import StoreError
    from ..store.files.schema import index_path
    from ..store.search.files import read_meta
    from ..store.search.record import BuildOptions, IndexRecord

    default = BuildOptions()
    settings: dict[str, Any] = {
        "standardise": "cohort",
        "metric": default.metric,
        "kind": default.kind,
        "recall": default.recall,
    }
    try:
        record = IndexRecord.from_json(read_meta(index_path(store.path, f"{patches}.{key}"))["record"])
        settings |= {"standardise": record.standardised, "metric": record.metric}
        if record.kind == "ivf":  # an exact one may have been `auto`, and may have to become `ivf`
            settings["kind"] = "ivf"
        settings["recall"] = record.ivf.target if record.ivf else default.recall
    except StoreError:  # there is none, or it cannot be read and is built again
        pass
    settings |= {name: value for name, value in given.items() if value is not None}
    options = BuildOptions(settings["metric"], settings["kind"], settings["recall"], rebuild, device)
    return str(settings["standardise"]), options


def _build(store: Store, key: str, *, patches: str, standardised: str, options: BuildOptions) -> Built:
    from ..store.search.lookup import update_index

    return update_index(store, key, patches=patches, standardised=standardised, options=options)


def _as_json(built: Built) -> dict[str, Any]:
    from dataclasses import asdict

    record = built.index.record
    kept = ("name", "key", "patches", "kind", "metric", "standardised", "fingerprint", "statistics_from")
    return {
        **{name: getattr(record, name) for name in kept},
        "rows": len(built.index),
        "slides": len(record.slide_ids),
        "done": built.done,
        "added": built.added,
        "why": built.why,
        "ivf": asdict(record.ivf) if record.ivf else None,
        "mixing": asdict(record.mixing) if record.mixing else None,
    }


def index_words(built: Built) -> list[str]:
    """What became of an index, how true it is and how slides mix in it, in plain sentences."""
    from ..store.choices import plural
    from .index_words import image_words, mixing_words, recall_words

    record = built.index.record
    where = {"none": "not standardised", "cohort": "standardised within the cohort"}.get(
        record.standardised, "standardised within each slide"
    )
    head = (
        f"index {record.name}: {plural(len(built.index), 'patch', 'patches')} of "
        f"{plural(len(record.slide_ids), 'slide')}, {record.kind}, "
        f"{record.metric}, {where}"
    )
    done = {
        "unchanged": "unchanged",
        "added to": f"{plural(len(built.added), 'slide')} added: {', '.join(built.added[:5])}",
    }
    lines = [head, f"  {done.get(built.done, 'built')}{f', as {built.why}' if built.why else ''}"]
    return [*lines, *recall_words(record), *image_words(record), *mixing_words(record)]
