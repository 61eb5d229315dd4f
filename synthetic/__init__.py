"""A cohort whose answer is known: drawn slides, and counts that follow them.

The names below are imported when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cohort import CohortSpec, write_cohort, write_spec

__all__ = ["CohortSpec", "write_cohort", "write_spec"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import cohort

        return getattr(cohort, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
