"""Exact search on a GPU: by FAISS where its GPU build is installed, else by torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Ints
from .errors import MissingDependencyError, StoreError
from .nearest_flat import FlatIndex, Groups, NumpyFlat

DEVICES = ("auto", "cpu", "cuda")

FAISS_MOST = 2048
"""Most neighbours that FAISS finds on a GPU."""


def gpu_flat(base: NDArray[np.float32], *, longest: float, device: str) -> FlatIndex | None:
    """An index on the GPU, or None where there is none and "auto" leaves the choice.

    Raises
    ------
    StoreError
        If the device is unknown.
    MissingDependencyError
        If "cuda" is asked for and neither torch nor FAISS sees a GPU.
    """
    if device not in DEVICES:
        msg = f"device {device!r}: choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        raise StoreError(msg)
    faiss, torch = _gpu_faiss(), _torch_cuda()
    if faiss is None and not torch:
        if device == "auto":
            return None
        msg = "neither torch nor FAISS sees a GPU: install their CUDA builds, or search with `--device cpu`"
        raise MissingDependencyError(msg)
    by_torch: FlatIndex | None = None
    if torch:
        from .nearest_torch import TorchFlat

        by_torch = TorchFlat(base, longest=longest, device="cuda")
    if faiss is None:
        return by_torch
    rest = by_torch or NumpyFlat(base, longest=longest)
    return SplitFlat(FaissGpuFlat(faiss, base, longest=longest), rest, most=FAISS_MOST)


class FaissGpuFlat(NumpyFlat):
    """`faiss.IndexFlatIP` on the first GPU."""

    def __init__(self, faiss: Any, base: NDArray[np.float32], *, longest: float) -> None:
        super().__init__(base, longest=longest)
        index = faiss.IndexFlatIP(base.shape[1])
        index.add(np.ascontiguousarray(base))
        self._resources = faiss.StandardGpuResources()  # lives as long as the index
        self._index = faiss.index_cpu_to_gpu(self._resources, 0, index)

    @property
    def rounding(self) -> float:
        """See `FlatIndex`; cuBLAS may round its inputs to the ten binary digits of TF32."""
        return super().rounding + 4 * 2.0**-11 * self.longest

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`; leaves nothing out."""
        assert groups is None
        scores, rows = self._index.search(np.ascontiguousarray(queries), k)
        return scores, rows


class SplitFlat:
    """Two indexes over the same vectors: a fast one for what it can, another for the rest.

    Parameters
    ----------
    fast
        Cannot leave rows out, nor find more than `most`.
    rest
        Can.
    """

    def __init__(self, fast: FlatIndex, rest: FlatIndex, *, most: int) -> None:
        self.fast, self.rest, self.most = fast, rest, most

    @property
    def ntotal(self) -> int:
        """See `FlatIndex`."""
        return self.rest.ntotal

    @property
    def rounding(self) -> float:
        """See `FlatIndex`."""
        return max(self.fast.rounding, self.rest.rounding)

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        chosen = self.fast if groups is None and k <= self.most else self.rest
        return chosen.top(queries, k, groups)

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """See `FlatIndex`."""
        return self.rest.vectors(rows)


def _gpu_faiss() -> Any:
    """FAISS, where it is a GPU build and sees a GPU."""
    try:
        import faiss
    except ImportError:
        return None
    count = getattr(faiss, "get_num_gpus", None)  # an older CPU build has no such function
    return faiss if count is not None and count() > 0 else None


def _torch_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
