"""Lets timm import beside a CPU-only torch whose torchvision brings compiled operators that do not load.

There `import torchvision` stops at a fake kernel for `torchvision::nms`, an operator that nobody declared. Once its
schema is declared the import succeeds; the operator itself stays unavailable, and timm never calls it. A whole
torchvision is left as it is.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library takes its declarations back when it is collected: it has to outlive this function.
_declared: list[Library] = []


def ensure_torchvision() -> None:
    """Make `import torchvision` work; call it before importing timm.

    Raises
    ------
    ImportError
        If torchvision is not installed.
    RuntimeError
        If its import fails for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise
        _declare_operators()
        importlib.import_module("torchvision")


def _declare_operators() -> None:
    from torch.library import Library

    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(f"nms{_SCHEMA}")  # type: ignore[no-untyped-call]
    library.define(f"qnms{_SCHEMA}")  # type: ignore[no-untyped-call]
    _declared.append(library)
