"""Which slides and spots of a store can be compared on, and a sentence for each that cannot."""

from __future__ import annotations

import numpy as np

from ...store.errors import ProtocolError
from ...store.naming import FeatureKey
from ...store.store import Store
from ...store.table import Table
from .feature_choice import DENSITY


def usable_table(store: Store, keys: tuple[str, ...], *, patches: str) -> tuple[Table, tuple[str, ...]]:
    """All spots that have features and at least one count, and warnings about those left out.

    A spot without any count was not measured: as a zero it would enter panel, slide means and truth, and would be
    told apart by every head that sees where tissue ends. The density control rides along where all slides have it.

    Raises
    ------
    StoreError
        If no slide has features and counts.
    ProtocolError
        If no spot has a count.
    """
    slides = store.slides_with(keys, patches=patches, expression=True)
    density = [
        key
        for key in store.keys(patches)
        if FeatureKey.parse(key).backbone == DENSITY and set(slides) <= set(store.slides_with([key], patches=patches))
    ]
    table = store.table(keys, patches=patches, control_keys=density[:1])
    warnings = []
    missing = sorted(set(store.slide_ids) - set(table.slide_ids))
    if missing:
        warnings.append(f"{len(missing)} slides lack counts or features and are left out: {', '.join(missing)}")
    table, empty = without_empty_spots(table)
    return table, (*warnings, *empty)


def without_empty_spots(table: Table) -> tuple[Table, tuple[str, ...]]:
    """Leave out spots of depth 0, and slides that have no others."""
    assert table.depth is not None
    seen = table.depth > 0
    if seen.all():
        return table, ()
    if not seen.any():
        msg = "no spot of these slides has any count: were the right count matrices joined?"
        raise ProtocolError(msg)
    lost = np.bincount(table.slide[~seen], minlength=len(table.slide_ids))
    named = [f"{slide} {n}" for slide, n in zip(table.slide_ids, lost, strict=True) if n]
    warnings = [f"{int(lost.sum())} spots without any count are left out ({', '.join(named)})"]
    kept = table.select_rows(np.flatnonzero(seen))
    full = np.unique(kept.slide)
    gone = [slide for i, slide in enumerate(table.slide_ids) if i not in full]
    if gone:
        warnings.append(f"no spot is left of {', '.join(gone)}")
    return kept.select_slides(full.tolist()), tuple(warnings)
