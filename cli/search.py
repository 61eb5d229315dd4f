"""`tissuary search`: look-alikes of a patch, or of every patch of a slide, across the cohort."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import print_json, progress_bar, result, say
from .status import aligned

if TYPE_CHECKING:
    from ..store.search.search import Hit, SearchIndex


def search(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    slide: Annotated[str, typer.Option("--slide", help="Slide of the query.")],
    patch: Annotated[
        str | None, typer.Option("--patch", help="Row of the query on its slide, or its barcode; or give --all.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Look-alikes wanted.")] = 10,
    key: Annotated[str | None, typer.Option("--key", help="Feature key; the finest view where not given.")] = None,
    patches: Annotated[str | None, typer.Option("--patches", help="Patch set; the only one by default.")] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="Leave out the query's own patient or slide.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Look at every patch, whatever the kind of index.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Search for every patch of the slide; needs --out.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the look-alikes here, one row a patch and rank: .parquet, .csv.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Draw the query and its look-alikes: .html, .png or .jpg.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Find the patches that look most like one patch; the query itself is never among them."""
    from ..store import Store
    from ..store.files.atomic import check_writable
    from ..store.search.lookup import default_index, open_index, patch_row

    _check_request(patch, whole=all_, out=out, report=report)
    opened = Store(store)
    for path in (out, report):
        if path is not None:
            check_writable(path.parent)
    patches = opened.patch_set(patches)
    key = key or default_index(opened.path, patches)
    index = open_index(opened, key, patches=patches, device=device, exact=exact)
    query = {"slide_id": slide, "key": key, "patches": patches, "exclude": exclude, "k": k}
    if patch is None:
        assert out is not None
        _search_all(index, query, exact=exact, out=out, json=json)
        return
    row = patch_row(opened, slide, patch, patches=patches)
    found = _search_one(index, query, row, exact=exact, out=out)
    if report is not None:
        from .contact_sheet import write_contact_sheet

        write_contact_sheet(report, opened, index, found, query={**query, "patch": row}, exact=exact)
        say(f"drew {report}")
    told = _told(index, query, exact=exact)
    if json:
        print_json({"query": {**query, "patch": row}, **told, "hits": [asdict(hit) for hit in found]})
        return
    _show(found, title=f"{key} {slide}:{row}", how=told["distance"])


def _check_request(patch: str | None, *, whole: bool, out: Path | None, report: Path | None) -> None:
    """Refuse what does not go together, before anything is read."""
    from ..store.errors import StoreError
    from .contact_sheet import SHEETS
    from .look_alikes_file import TABLES

    msg = ""
    if (patch is None) != whole:
        msg = "say which patch looks for look-alikes: one of them (`--patch 17`), or every one of the slide (`--all`)"
    elif whole and out is None:
        msg = "`--all` finds k rows for every patch: say where to (`--out FILE.parquet`)"
    elif whole and report is not None:
        msg = "`--report` draws one query: give it with `--patch`"
    elif out is not None and out.suffix.lower() not in TABLES:
        msg = f"`--out {out}`: choose a file that ends in {' or '.join(TABLES)}"
    elif report is not None and report.suffix.lower() not in SHEETS:
        msg = f"`--report {report}`: choose a file that ends in {', '.join(SHEETS)}"
    if msg:
        raise StoreError(msg)


def _search_one(
    index: SearchIndex, query: dict[str, Any], row: int, *, exact: bool, out: Path | None
) -> tuple[Hit, ...]:
    from ..store.search.lookup import search_patch

    slide, k, exclude = query["slide_id"], query["k"], query["exclude"]
    found = search_patch(index, slide, row, k, exclude=exclude, exact=exact)
    if len(found) < k:
        say(f"{len(found)} look-alikes, not {k}: {why_fewer(index, slide, exclude)}")
    if out is not None:
        from .look_alikes_file import hits_frame, write_frame

        write_frame(out, hits_frame(slide, row, found))
        say(f"wrote {out}")
    return found


def _search_all(index: SearchIndex, query: dict[str, Any], *, exact: bool, out: Path, json: bool) -> None:
    from ..store.search.lookup import search_slide
    from .look_alikes_file import write_frame

    slide, k, exclude = query["slide_id"], query["k"], query["exclude"]
    with progress_bar("search") as progress:
        found = search_slide(index, slide, k, exclude=exclude, exact=exact, progress=progress)
    write_frame(out, found.frame())
    per_patch = found.neighbours.mask.sum(axis=1)
    fewest = int(per_patch.min(initial=k))
    if fewest < k:
        say(f"{fewest} look-alikes a patch, not {k}: {why_fewer(index, slide, exclude)}")
    say(f"wrote {int(per_patch.sum())} look-alikes of {len(per_patch)} patches of {slide} to {out}")
    if json:
        told = _told(index, query, exact=exact)
        print_json({"query": query, **told, "patches": len(per_patch), "rows": int(per_patch.sum()), "out": str(out)})


def why_fewer(index: SearchIndex, slide: str, exclude: str | None) -> str:
    """Why a query gets fewer rows than it asked for."""
    record = index.record
    if exclude is None:
        return f"the index of {record.key} has no other patches"
    patient = record.patient_ids[record.slide_ids.index(slide)]
    own = f"patient {patient}" if exclude == "patient" else f"slide {slide}"
    group = record.patient_ids if exclude == "patient" else record.slide_ids
    if len(set(group)) == 1:
        return f"every patch in the index of {record.key} is of {own}, which `--exclude {exclude}` leaves out"
    return f"the index of {record.key} has no other patches that are not of {own}"


def _told(index: SearchIndex, query: dict[str, Any], *, exact: bool) -> dict[str, Any]:
    """What a reader of look-alikes must know: what was searched and how, what a distance is, what limits them."""
    from ..store.search.search import search_warnings
    from .index_words import how_measured

    record, exclude = index.record, query["exclude"]
    kept = ("name", "kind", "metric", "standardised", "fingerprint")
    recall = record.ivf.recall.get(exclude or "none") if record.ivf and not exact else 1.0
    about = {**{name: getattr(record, name) for name in kept}, "slides": len(record.slide_ids), "rows": len(index)}
    return {
        "index": {**about, "recall": recall},
        "distance": how_measured(record, exclude=exclude, exact=exact),
        "warnings": list(search_warnings(index, query["slide_id"], exclude=exclude)),
    }


def _show(found: tuple[Hit, ...], *, title: str, how: str) -> None:
    """Lines that are whole also in a pipe: two slides never get the same letters."""
    rows = [("rank", "slide", "patient", "patch", "x um", "y um", "distance")]
    for hit in found:
        position = (f"{hit.x_um:.0f}", f"{hit.y_um:.0f}")
        rows.append((str(hit.rank), hit.slide_id, hit.patient_id, str(hit.patch), *position, f"{hit.distance:.4f}"))
    for line in (title, *aligned(rows), how):
        result(line)
