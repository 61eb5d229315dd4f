"""Which features of a store a comparison reads: one backbone, several views, finest first."""

from __future__ import annotations

from ...store.errors import StoreError
from ...store.naming import SPOTS, FeatureKey
from ...store.store import Store

DENSITY = "haematoxylin"
"""Backbone of the one-number control; never a candidate by itself."""


def feature_keys(
    store: Store, *, backbone: str | None = None, views: tuple[str, ...] = (), patches: str = SPOTS
) -> tuple[str, ...]:
    """Keys of a backbone's views.

    Parameters
    ----------
    backbone
        Part of the keys before the `@`; the store's only one where not given.
    views
        In the order wanted; all, from the smallest field to the largest, where empty.

    Raises
    ------
    StoreError
        If the store has no such features, or several backbones and none was chosen.
    """
    keys = {key: FeatureKey.parse(key) for key in store.keys(patches)}
    encoders = sorted({key.encoder for key in keys.values() if key.backbone != DENSITY})
    if backbone is None and len(encoders) != 1:
        listed = ", ".join(encoders) or "no backbone (featurize first)"
        sets = ", ".join(store.patch_sets)
        msg = (
            f"{store.path} has features of {listed} on {patches!r} (patch sets: {sets}); choose with `--backbone NAME`"
        )
        raise StoreError(msg)
    backbone = backbone or encoders[0]
    found = {parsed.view: key for key, parsed in keys.items() if parsed.encoder == backbone and not parsed.layout}
    wanted = views or tuple(sorted(found, key=_field_um))
    missing = [view for view in wanted if view not in found]
    if missing or not wanted:
        have = ", ".join(sorted(found, key=_field_um)) or "none"
        msg = (
            f"{store.path} has no features {backbone}@{', '.join(missing) or '*'} on {patches!r} (views of {backbone}: "
            f"{have}). Make them: `tissuary featurize SOURCE --store {store.path} --backbone {backbone} --views ...`"
        )
        raise StoreError(msg)
    return tuple(found[view] for view in wanted)


def _field_um(view: str) -> tuple[float, str]:
    """Side of a view's field; `native`, whose field differs by slide, comes first."""
    size = FeatureKey(DENSITY, view).size
    return (size[0] if size else 0.0), view
