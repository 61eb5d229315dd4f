"""Pixels to features: cohorts, slides and their scale, views, backbones, the pipeline.

The names below are imported when first used, so that importing one encoder does not pull in every reader.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import FeaturizeOptions, FeaturizeReport
    from .pipeline import featurize

__all__ = ["FeaturizeOptions", "FeaturizeReport", "featurize"]


def __getattr__(name: str) -> Any:
    if name == "featurize":
        from .pipeline import featurize

        return featurize
    if name in __all__:
        from . import options

        return getattr(options, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
