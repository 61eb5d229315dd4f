"""Which slides and spots of a store can be compared on, and a sentence for each that cannot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...store.choices import instead
from ...store.errors import ProtocolError, StoreError
from ...store.naming import DENSITY, FeatureKey
from ...store.store import Store
from ...store.table import Table

ROWS = 8192
"""Rows looked at together."""


def usable_table(
    store: Store, keys: tuple[str, ...], *, patches: str, tokens: bool, slides: Sequence[str] = ()
) -> tuple[Table, tuple[str, ...]]:
    """All spots that have features and at least one count, and warnings about those left out.

    A spot without any count was not measured: as a zero it would enter panel, slide means and truth, and would be
    told apart by every head that sees where tissue ends. The density control rides along where all slides have it, and
    so do token grids and sub-tiles of the same backbones with `tokens`: they are many times the rest, and what is
    loaded is also looked at, standardised and digested.

    Parameters
    ----------
    slides
        Those that take part, in this order; others then decide neither over genes nor over tokens. All where empty.

    Raises
    ------
    StoreError
        If no slide, or not one of `slides`, has features and counts, or a feature is not finite.
    ProtocolError
        If no spot has a count.
    """
    able = store.slides_with(keys, patches=patches, expression=True)
    unable = [slide for slide in slides if slide not in able]
    if unable:
        msg = f"no slide {unable[0]!r} has features and counts: {instead(unable[0], able)}"
        raise StoreError(msg)
    left = [] if slides else sorted(set(store.slide_ids) - set(able))
    slides = tuple(dict.fromkeys(slides)) or able
    parsed = {key: FeatureKey.parse(key) for key in store.keys(patches)}
    encoders = {parsed[key].encoder for key in keys}
    wanted = [key for key, one in parsed.items() if one.backbone == DENSITY]
    wanted += [key for key, one in parsed.items() if tokens and one.layout and one.encoder in encoders]
    lacking = {key: sorted(set(slides) - set(store.slides_with([key], patches=patches))) for key in wanted}
    density = [key for key in wanted if parsed[key].backbone == DENSITY and not lacking[key]]
    token_keys = [key for key in wanted if parsed[key].layout and not lacking[key]]
    table = store.table(keys, slides=slides, patches=patches, control_keys=density[:1], token_keys=token_keys)
    check_finite(table)
    warnings = [
        f"{key} is not used: {len(without)} of {len(slides)} slides lack it ({', '.join(without[:5])}); "
        "`tissuary featurize` with the same options makes what is missing"
        for key, without in lacking.items()
        if without
    ]
    if left:
        warnings.append(f"{len(left)} slides lack counts or features and are left out: {', '.join(left)}")
    table, empty = without_empty_spots(table)
    return table, (*warnings, *empty)


def check_finite(table: Table) -> None:
    """Refuse features with NaN or infinity: one of them would spoil every mean, and every head that reads it.

    Raises
    ------
    StoreError
        Naming key, slide and row.
    """
    for column in (*table.columns.values(), *table.control_columns.values(), *table.token_columns.values()):
        for slide, part in zip(table.slide_ids, column.parts, strict=True):
            for start in range(0, len(part), ROWS):
                wrong = ~np.isfinite(part[start : start + ROWS]).reshape(len(part[start : start + ROWS]), -1).all(
                    axis=1
                )
                if wrong.any():
                    row = start + int(np.flatnonzero(wrong)[0])
                    msg = f"features {column.key} of slide {slide} are not finite in row {row}: run `tissuary verify`"
                    raise StoreError(msg)


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
