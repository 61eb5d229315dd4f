"""tissuary: a foundation-model feature store for histology with lightweight heads."""

from typing import Any

__all__ = ["__version__", "featurize", "heads", "store", "synthetic"]


def __getattr__(name: str) -> Any:
    """The version and the sub-packages, looked for when they are first used.

    Nothing is imported when this file is: pytest loads it a second time, under the name of the clone's folder.
    """
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tissuary")
        except PackageNotFoundError:  # the sources lie on PYTHONPATH
            return "0+unknown"
    if name in __all__:
        import importlib

        return importlib.import_module(f"tissuary.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
