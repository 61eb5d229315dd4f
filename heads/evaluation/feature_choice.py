"""Which features of a store a comparison reads: one backbone, several views, finest first."""

from __future__ import annotations

from ...store.choices import instead, listed
from ...store.errors import StoreError
from ...store.naming import DENSITY, FeatureKey, field_um
from ...store.store import Store


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
