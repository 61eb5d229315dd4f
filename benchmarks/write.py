"""What a feature file costs to write: its size over the bare values, its time over a plain file's.

    python -m tissuary.benchmarks.write [--rows 51200] [--dim 1024] [--scattered]

The ceiling casts float32 blocks of 256 rows to float16, appends them to a plain file and brings that to the disk:
whoever keeps half precision must cast. The time of writing values that are fp16 already is printed beside it. Ours is
a resumable job that gets the rows of a grid in featurize's visiting order (with `--scattered`, in random order, where
every row is a write of its own), and a writer that gets them in the order of the file; both check that the values are
finite and that fp16 holds them, and store checksums. All run in turns, on the disk of the temporary folder.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # as wherever features are made: it casts to half precision

from ..featurize.patches.read_blocks import BLOCK_PX, visiting_order
from ..store.arrays import Floats, Ints
from ..store.files.features import BLOCK_ROWS, FeatureHeader, read_features, write_features
from ..store.files.writer import open_job

TILE_PX = 224
REPEATS = 9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=51_200)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--scattered", action="store_true", help="visit the rows in random order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    order = rng.permutation(options.rows) if options.scattered else _grid_order(options.rows)
    values = rng.standard_normal((options.rows, options.dim), dtype=np.float32)  # in the order of visiting
    ready = values.astype("<f2")
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "feature.h5", Path(folder) / "plain.bin"
        job, writer, raw, bare = _in_turns(
            (path, plain),
            lambda: _write_job(path, values, order),
            lambda: _write_in_order(path, values),
            lambda: _write_plain(plain, values),
            lambda: _write_plain(plain, ready),
        )
        _write_job(path, values, order)
        assert np.array_equal(read_features(path).features[order], ready), "the file holds other values"
        size = path.stat().st_size
    print(f"seconds: job {job:.3f}   writer {writer:.3f}   plain file {raw:.3f}   without the cast {bare:.3f}")
    print(f"write_bytes ratio={size / ready.nbytes:.4f} goal=1.02")
    print(f"write ratio={raw / job:.3f} goal=0.75")
    print(f"write_in_order ratio={raw / writer:.3f} goal=0.75")
    print(f"write_without_cast ratio={bare / job:.3f}")


def _grid_order(rows: int) -> Ints:
    """The visiting order of a grid as wide as high, whose rows are numbered line by line."""
    columns = int(np.ceil(np.sqrt(rows)))
    line, column = np.divmod(np.arange(rows), columns)
    return visiting_order((np.stack([column, line], axis=1) + 0.5) * TILE_PX, block_px=BLOCK_PX)


def _in_turns(paths: tuple[Path, ...], *sides: Callable[[], None]) -> list[float]:
    """Median seconds of each, in turns so that a busy machine slows all alike; `paths` are gone before each."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(1 + REPEATS):
        for taken, side in zip(times, sides, strict=True):
            started = time.perf_counter()
            side()
            taken.append(time.perf_counter() - started)
            for path in paths:
                path.unlink(missing_ok=True)
    return [float(np.median(taken[1:])) for taken in times]


def _header() -> FeatureHeader:
    return FeatureHeader("slide", "benchmark", {}, 0.5, 112.0, 1.0, "fp32", "none", 0.5, "none")


def _write_job(path: Path, values: Floats, order: Ints) -> None:
    with open_job(path, _header(), shape=values.shape, plan={}, block_rows=BLOCK_ROWS, order=order) as job:
        for start in range(0, len(values), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            job.write(order[block], values[block])
        job.finish()


def _write_in_order(path: Path, values: Floats) -> None:
    with write_features(path, _header(), shape=values.shape) as writer:
        for start in range(0, len(values), BLOCK_ROWS):
            writer.append(values[start : start + BLOCK_ROWS])


def _write_plain(path: Path, values: Floats) -> None:
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(values), BLOCK_ROWS):
            file.write(values[start : start + BLOCK_ROWS].astype("<f2", copy=False).data.cast("B"))
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
