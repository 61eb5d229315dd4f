"""Which features a comparison runs over: every backbone with every set of views, on the same spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...store.naming import FeatureKey
from ...store.store import Store
from ...store.table import Table
from .feature_choice import feature_keys


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
