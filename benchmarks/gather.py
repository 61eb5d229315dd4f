"""How fast random rows come back from a store, against `np.memmap` of the same bytes.

    python -m tissuary.benchmarks.gather [--rows 200000] [--dim 1024] [--slides 1]

Both sides gather the same 4,096 rows in the same order, in turns, on files that are in the page cache. Also printed,
for comparison: the same rows as float32 (what heads take), through h5py's fancy indexing on the store's own file, and
through it on a file laid out as TRIDENT writes it (float32, resizable, chunks of one row).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch  # as wherever heads train: it casts from half precision
from numpy.typing import NDArray

from ..store.files.column import FeatureColumn
from ..store.files.features import BLOCK_ROWS, FeatureHeader, read_features, write_features

GATHERED = 4096
REPEATS = 40


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--slides", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        column = _write_store(Path(folder), options.rows, options.dim, slides=options.slides)
        plain = _write_plain(Path(folder) / "plain.bin", column)
        rng = np.random.default_rng(0)
        starts = np.cumsum([0, *(len(part) for part in column.parts)])
        rows = rng.integers(0, starts[-1], size=GATHERED)
        slide = (np.searchsorted(starts, rows, side="right") - 1).astype(np.int32)
        local = (rows - starts[slide]).astype(np.int32)
        assert np.array_equal(column.raw(slide, local), plain[rows]), "the store gave other rows"
        every = np.arange(starts[-1])
        all_slides = np.repeat(np.arange(len(column.parts), dtype=np.int32), np.diff(starts))
        all_local = (every - starts[all_slides]).astype(np.int32)
        _report("gather", lambda: column.raw(slide, local), lambda: plain[rows], rows=GATHERED)
        _report_others(Path(folder), column, slide, local)
        _report(
            "full read", lambda: column.raw(all_slides, all_local), lambda: plain[every], rows=len(every), repeats=5
        )


def _report(
    name: str, ours: Callable[[], Any], ceiling: Callable[[], Any], *, rows: int, repeats: int = REPEATS
) -> None:
    ours(), ceiling()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):  # in turns, so that a busy machine slows both sides alike
        for side, run in enumerate((ours, ceiling)):
            started = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - started)
    mine, best = (float(np.median(side)) for side in times)
    print(f"{name:10s} store {rows / mine / 1e3:8.0f} thousand rows/s   np.memmap {rows / best / 1e3:8.0f}")
    print(f"{name.replace(' ', '_')} ratio={best / mine:.3f} goal=0.9")


def _report_others(folder: Path, column: FeatureColumn, slide: NDArray[np.int32], row: NDArray[np.int32]) -> None:
    """Rates of other ways to the same rows: h5py wants them sorted and without repeats, slide by slide."""
    first = np.unique(row[slide == 0])
    trident = folder / "trident.h5"
    with h5py.File(trident, "w") as file:
        part = column.parts[0]
        dim = part.shape[1]
        rows = file.create_dataset("features", part.shape, "<f4", chunks=(1, dim), maxshape=(None, dim))
        for start in range(0, len(part), 4096):
            rows[start : start + 4096] = part[start : start + 4096]
    with h5py.File(folder / "slide0.h5", "r") as own, h5py.File(trident, "r") as chunked:
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "store, as float32": (len(row), lambda: column.gather(slide, row)),
            "h5py, the store's file": (len(first), lambda: own["features"][first]),
            "h5py, chunks of one row": (len(first), lambda: chunked["features"][first]),
        }
        for name, (count, way) in ways.items():
            way()
            started = time.perf_counter()
            for _ in range(3):
                way()
            rate = 3 * count / (time.perf_counter() - started)
            print(f"{name:24s} {rate / 1e3:8.0f} thousand rows/s")


def _write_store(folder: Path, rows: int, dim: int, *, slides: int) -> FeatureColumn:
    """Feature files as featurize writes them, opened through the store's reader."""
    rng = np.random.default_rng(1)
    parts = []
    for i, count in enumerate(np.diff(np.linspace(0, rows, slides + 1).astype(int))):
        path = folder / f"slide{i}.h5"
        header = FeatureHeader(f"slide{i}", "benchmark", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")
        with write_features(path, header, shape=(count, dim)) as writer:
            for start in range(0, count, 4096):
                writer.append(rng.standard_normal((min(4096, count - start), dim), dtype=np.float32))
        parts.append(read_features(path).features)
    return FeatureColumn("benchmark@20x", "benchmark", tuple(parts))


def _write_plain(path: Path, column: FeatureColumn) -> Any:
    """The same rows as one raw file, memory-mapped.

    It is written in blocks of the same size as a feature file: the page cache keeps a file that was written in one
    call in larger pieces, and reads it a quarter faster, whatever its format.
    """
    with path.open("wb", buffering=0) as file:
        for part in column.parts:
            for start in range(0, len(part), BLOCK_ROWS):
                file.write(part[start : start + BLOCK_ROWS].tobytes())
    rows = sum(len(part) for part in column.parts)
    return np.memmap(path, dtype=column.parts[0].dtype, mode="r", shape=(rows, column.dim))


if __name__ == "__main__":
    main()
