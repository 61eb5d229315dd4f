"""Features in torch's files: one tensor, or one numpy array that `torch.save` pickled; never other objects.

An array is pickled as calls of numpy's own functions, which `weights_only` refuses. Here two small classes stand in
for them: they keep what the file says, and the array is made from its bytes after they are checked.
"""

from __future__ import annotations

import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import Floats
from ...errors import DamagedFileError, MissingDependencyError, StoreError, plain_reason
from ..hdf import checked_vectors

_DAMAGE = (
    *(OSError, RuntimeError, EOFError, LookupError, ArithmeticError, MemoryError, pickle.UnpicklingError),
    *(ValueError, TypeError, AttributeError, AssertionError, struct.error),
)


class PickledDtype:
    """A dtype of a pickled array: its name ("f4"), and its byte order."""

    def __init__(self, name: str = "", *_: bool) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class PickledArray:
    """A pickled array: shape, dtype, order of axes and bytes, not yet numpy's."""

    def __init__(self, *made_from: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def values(self) -> Floats:
        """The array.

        Raises
        ------
        ValueError
            If its numbers are no floating-point numbers, or its bytes are not as many as its shape says.
        """
        _, shape, dtype, fortran, content = self.state
        if dtype.name not in ("f2", "f4", "f8") or dtype.order not in ("<", ">", "=", "|"):
            msg = f"an array of {dtype.name}, which are no floating-point numbers"
            raise ValueError(msg)
        kind = np.dtype(f"{dtype.order.replace('|', '=')}{dtype.name}")
        if not isinstance(content, bytes) or math.prod(shape) * kind.itemsize != len(content):
            msg = f"an array whose bytes are not those of its shape {shape}"
            raise ValueError(msg)
        return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")


_STAND_INS: list[Any] = [
    *((PickledArray, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),  # numpy 2, numpy 1
    (PickledArray, "numpy.ndarray"),
    (PickledDtype, "numpy.dtype"),
]


def read_torch_file(path: Path) -> Floats:
    """Return the features (n, dim) of a `.pt` file.

    Raises
    ------
    StoreError
        If it holds anything but one floating-point tensor or array, or cannot be read; nothing in it is executed.
    MissingDependencyError
        If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        msg = f"{path} is a torch file, and torch is not installed: install it, or import HDF5 files instead"
        raise MissingDependencyError(msg) from error
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, PickledArray):
            return checked_vectors(content.values(), str(path))
        values = _plain(content) if isinstance(content, torch.Tensor) and content.is_floating_point() else None
    except StoreError:
        raise
    except _DAMAGE as error:
        msg = (
            f"{path} cannot be read as a plain tensor or array ({plain_reason(error)}): only these are loaded, never "
            "code; make the file again with the tool that wrote it, as HDF5 if it can"
        )
        raise DamagedFileError(msg) from error
    if values is None:
        msg = f"{path} holds {type(content).__name__}; wanted one floating-point tensor or array (n, dim)"
        raise StoreError(msg)
    return checked_vectors(values, str(path))


def _plain(tensor: Any) -> Any:
    """The values of a tensor, of a parameter too; numpy has no bfloat16, and float32 holds it."""
    bare = tensor.detach()
    return (bare.float() if str(bare.dtype) == "torch.bfloat16" else bare).numpy()
