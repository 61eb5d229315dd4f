"""Features at rest: files, catalogue, tables, neighbourhoods and search.

The names below are imported when first used, so that a command that only prints help does not wait for numpy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Store
    from .table import Table

__all__ = ["Store", "Table"]


def __getattr__(name: str) -> Any:
    if name == "Store":
        from .store import Store

        return Store
    if name == "Table":
        from .table import Table

        return Table
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
