"""Which slides and spots of a store can be compared on, and a sentence for each that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...store.choices import instead, listed
from ...store.errors import ProtocolError, StoreError
from ...store.naming import DENSITY, FeatureKey, field_um
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


def feature_keys(
    store: Store, *, backbone: str | None = None, views: tuple[str, ...] = (), patches: str | None = None
) -> tuple[str, ...]:
    """Keys of a backbone's views.

    Parameters
    ----------
    backbone
        Part of the keys before the `@`; the store's only one where not given.
    views
        In the order wanted; all, from the smallest field to the largest, where empty.
    patches
        Patch set; the only one, or spots, where None.

    Raises
    ------
    StoreError
        If the store has no such features, or several backbones and none was chosen.
    """
    patches = store.patch_set(patches)
    keys = {key: FeatureKey.parse(key) for key in store.keys(patches)}
    encoders = sorted({key.encoder for key in keys.values() if key.backbone != DENSITY})
    if not encoders:
        sets = listed(one for one in store.patch_sets if one != patches)
        msg = f"{store.path} has no features on {patches!r} (other patch sets: {sets}): featurize first"
        raise StoreError(msg)
    if backbone is None and len(encoders) > 1:
        msg = f'{store.path} has features of {listed(encoders)} on {patches!r}: choose with `backbone="{encoders[0]}"`'
        raise StoreError(msg)
    backbone = backbone or encoders[0]
    if backbone not in encoders:
        msg = f"{store.path} has no features of backbone {backbone!r} on {patches!r}: {instead(backbone, encoders)}"
        raise StoreError(msg)
    found = {parsed.view: key for key, parsed in keys.items() if parsed.encoder == backbone and not parsed.layout}
    wanted = views or tuple(sorted(found, key=field_um))
    missing = [view for view in wanted if view not in found]
    if missing or not wanted:
        have = ", ".join(sorted(found, key=field_um)) or "none"
        msg = (
            f"{store.path} has no features {backbone}@{', '.join(missing) or '*'} on {patches!r} (views of {backbone}: "
            f"{have}). Make them: `tissuary featurize SOURCE --store {store.path} --backbone {backbone} --views ...`"
        )
        raise StoreError(msg)
    return tuple(found[view] for view in wanted)


@dataclass(frozen=True)
class FeatureSet:
    """Feature keys side by side."""

    keys: tuple[str, ...]

    @property
    def backbone(self) -> str:
        """Part of the keys before the `@`."""
        return FeatureKey.parse(self.keys[0]).encoder

    @property
    def views(self) -> str:
        """Such as `20x+10x+5x`."""
        return "+".join(FeatureKey.parse(key).view for key in self.keys)

    def of(self, table: Table) -> Table:
        """A table with these features alone, and the tokens of the same backbone."""
        tokens = {
            key: column for key, column in table.token_columns.items() if FeatureKey.parse(key).encoder == self.backbone
        }
        return replace(table, columns={key: table.columns[key] for key in self.keys}, token_columns=tokens)


def feature_sets(
    store: Store, *, backbones: Sequence[str], view_sets: Sequence[Sequence[str]], patches: str
) -> tuple[FeatureSet, ...]:
    """Every backbone with every set of views.

    Parameters
    ----------
    backbones
        Parts of the keys before the `@`; the store's only one where empty.
    view_sets
        Views side by side; one set of all that a backbone has where empty.

    Raises
    ------
    StoreError
        If the store lacks one of them, or has several backbones and none was chosen.
    """
    made = [
        FeatureSet(feature_keys(store, backbone=backbone, views=tuple(views), patches=patches))
        for backbone in (backbones or (None,))
        for views in (view_sets or ((),))
    ]
    return tuple(dict.fromkeys(made))
