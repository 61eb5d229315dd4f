"""Features to expression: heads, training, honest evaluation.

The names below are imported when first used, so that making one head does not load the whole comparison.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison.compare import compare
    from .comparison.plan import CompareOptions
    from .contract import Head
    from .prediction.predict import PredictOptions, predict
    from .prediction.train import TrainOptions, train
    from .registry import HEADS, make_head

__all__ = [
    "HEADS",
    "CompareOptions",
    "Head",
    "PredictOptions",
    "TrainOptions",
    "compare",
    "make_head",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("CompareOptions", "compare"):
        from .comparison import compare as module

        return getattr(module, name)
    if name in ("TrainOptions", "train"):
        from .prediction import train as training

        return getattr(training, name)
    if name in ("PredictOptions", "predict"):
        from .prediction import predict as predicting

        return getattr(predicting, name)
    if name in ("HEADS", "make_head"):
        from . import registry

        return getattr(registry, name)
    if name == "Head":
        from .contract import Head

        return Head
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
