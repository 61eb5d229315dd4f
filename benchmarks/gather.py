"""How fast random rows come back from a store, against `np.memmap` of the same bytes.

    python -m tissuary.benchmarks.gather [--rows 200000] [--dim 1024] [--slides 1]

Both sides gather the same 4,096 rows in the same order, in turns, on files that are in the page cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..store.feature_file import BLOCK_ROWS, FeatureHeader, read_features, write_features
from ..store.table import FeatureColumn

GATHERED = 4096
REPEATS = 40


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--slides", type=int, default=1)
    options = parser.parse_args()
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
