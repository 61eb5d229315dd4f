"""Exact search on a GPU: by FAISS where its GPU build is installed, else by torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Floats, Ints
from ..errors import MissingDependencyError, StoreError
from .flat import UNIT, FlatIndex, Groups, NumpyFlat, product_error

if TYPE_CHECKING:
    import torch

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


SCORES = 2**28
"""Scores of the first pass that are held at a time."""

GATHERED = 2**26
"""Numbers of candidates that are gathered for the second pass at a time."""

CANDIDATES = 128
"""Candidates that the first pass hands on, beyond those asked for."""


class TorchFlat(NumpyFlat):
    """Brute force on a device.

    The first pass multiplies matrices in half precision (fp16 on CUDA, bf16 elsewhere) and proposes 128 rows more
    than are wanted; fp32 decides among these. A row that was not proposed scores at most the last proposal plus the
    bound `coarse_error`; where that does not rule it out, four times as many are proposed, at last all of them. So
    the answer is exact, not only likely.

    Parameters
    ----------
    base
        (n, dim) vectors.
    longest
        Length of the longest of them.
    device
        Such as "cuda" or "cpu".
    """

    def __init__(self, base: NDArray[np.float32], *, longest: float = 1.0, device: str = "cuda") -> None:
        import torch

        super().__init__(base, longest=longest)
        self.device = device
        self._full = torch.from_numpy(np.ascontiguousarray(base)).to(device)
        low = torch.float16 if device.startswith("cuda") else torch.bfloat16
        self._low = (self._full / max(longest, 1e-30)).to(low)  # at most length one: no product overflows
        self._error = coarse_error(base.shape[1], digits=11 if low == torch.float16 else 8)

    def top(self, queries: NDArray[np.float32], k: int, groups: Groups | None) -> tuple[Floats, Ints]:
        """See `FlatIndex`."""
        import torch

        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        group = None if groups is None else torch.from_numpy(np.asarray(groups.rows, dtype=np.int64)).to(self.device)
        step = max(1, SCORES // max(self.ntotal, 1))
        with torch.no_grad(), _full_accumulation():
            for start in range(0, len(queries), step):
                some = slice(start, min(start + step, len(queries)))
                own = None if groups is None else torch.from_numpy(np.asarray(groups.queries[some], dtype=np.int64))
                leave_out = None if own is None or group is None else own.to(self.device)[:, None] == group[None]
                query = torch.from_numpy(np.ascontiguousarray(queries[some])).to(self.device)
                value, place = self._block(query, k, leave_out)
                scores[some], rows[some] = value.cpu().numpy(), place.cpu().numpy()
        rows[np.isneginf(scores)] = -1
        return scores, rows

    def _block(self, query: torch.Tensor, k: int, leave_out: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and rows (m, k) of some queries."""
        import torch

        n, wanted = self.ntotal, min(k, self.ntotal)
        length = query.norm(dim=1, keepdim=True).clamp_min(1e-30)
        coarse = (query / length).to(self._low.dtype) @ self._low.T  # (m, n)
        if leave_out is not None:
            coarse.masked_fill_(leave_out, -torch.inf)
        value = torch.full((len(query), k), -torch.inf, device=query.device)
        place = torch.zeros((len(query), k), dtype=torch.int64, device=query.device)
        open_, fetch = torch.arange(len(query), device=query.device), min(n, wanted + CANDIDATES)
        while len(open_):
            rough, found = coarse[open_].topk(fetch, dim=1)
            exact = self._rescore(query[open_], found).masked_fill_(rough == -torch.inf, -torch.inf)
            best, order = exact.topk(wanted, dim=1)
            value[open_, :wanted], place[open_, :wanted] = best, found.gather(1, order)
            beyond = (rough[:, -1].float() + self._error) * length[open_, 0] * self.longest
            open_ = open_[beyond > best[:, -1]] if fetch < n else open_[:0]
            fetch = min(n, 4 * fetch)
        return value, place

    def _rescore(self, query: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Inner products (m, c) in fp32."""
        import torch

        step = max(1, GATHERED // max(found.shape[1] * query.shape[1], 1))
        parts = [
            (self._full[found[i : i + step]] * query[i : i + step, None]).sum(dim=2)  # no matmul: TF32 would round it
            for i in range(0, len(query), step)
        ]
        return torch.cat(parts)


def coarse_error(dim: int, *, digits: int) -> float:
    """Bound on the error of the first pass, for vectors of length at most one.

    With u = 2^-digits: both inputs and the result are rounded, 3 u (1 + u) at most; the sum runs in fp32; numbers
    below the smallest normal fp16 lose 2^-25 each.
    """
    return 4 * 2.0**-digits + product_error(dim) + float(np.sqrt(dim)) * UNIT


@contextmanager
def _full_accumulation() -> Iterator[None]:
    """Have CUDA add up half-precision products in fp32, as the bound assumes."""
    import torch

    flags = torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = {name: getattr(flags, name) for name in names}
    try:
        for name in names:
            setattr(flags, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(flags, name, value)
