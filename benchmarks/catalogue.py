"""A store of 10,000 slides: how long `status`, opening and one slide's table take.

    python -m tissuary.benchmarks.catalogue [--slides 10000]

The files of one tiny slide (geometry, patches, two feature keys, counts) are written as always; the others are copies
that carry their own slide id at the same place. The first `status` opens every file; from then on nothing is opened
that did not change. `status` is the whole command, start of the interpreter included; opening and the table are
measured in a fresh process, opening from a store nobody touched yet to all its rows. Ratio: seconds over the limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from ..store.catalog_file import COLUMNS
from ..store.files.expression import Expression, write_expression
from ..store.files.features import FeatureHeader, write_features
from ..store.files.patches import Patches, write_patches
from ..store.files.schema import expression_path, features_path, patches_path, slide_path
from ..store.files.slide import SlideRecord, write_slide

KEYS = ("toy@20x", "toy@10x")
LIMIT_SECONDS = {"status": 1.0, "opening": 1.0, "table": 0.05}
REPEATS = 7

_OPEN = """
import sys, time
from tissuary.store import Store
start = time.perf_counter()
store = Store(sys.argv[1])
count = len(store.entries)
opened = time.perf_counter() - start
store = Store(sys.argv[1])
seconds = []
for slide in sys.argv[2:]:
    start = time.perf_counter()
    store.table("toy@20x", slides=[slide])
    seconds.append(time.perf_counter() - start)
print(count, opened, sorted(seconds[1:])[len(seconds) // 2 - 1], seconds[0])
"""


def main() -> None:
    """Make the store, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        write_many(root, options.slides)
        cold = _status_seconds(root)
        before = _cpu_seconds()
        status = [_status_seconds(root) for _ in range(REPEATS)]
        cpu = (_cpu_seconds() - before) / REPEATS
        changed = [_status_after_a_change(root, number) for number in range(REPEATS)]
        chosen = [slide_name(i) for i in np.random.default_rng(0).integers(0, options.slides, 12)]
        opened = [_open(root, chosen) for _ in range(REPEATS)]
    files = int(opened[0][0])
    opening, table, first = (statistics.median(one[i] for one in opened) for i in (1, 2, 3))
    print(f"{files:,} files of {options.slides:,} slides; first status, which opens every file: {cold:.1f} s")
    print(f"status {statistics.median(status):.2f} s   opening {opening:.2f} s   table {1e3 * table:.1f} ms")
    print(f"a status takes {cpu:.2f} s of a processor")
    print(f"status after one file changed, which opens that file: {statistics.median(changed):.2f} s")
    print(f"first table of a process, which imports scipy's and h5py's rest: {1e3 * first:.0f} ms")
    for name, seconds in (("status", statistics.median(status)), ("opening", opening), ("table", table)):
        print(f"{name}_seconds ratio={seconds / LIMIT_SECONDS[name]:.3f} goal=1.0")


def slide_name(number: int) -> str:
    """Slide ids of one length, so that one can take the place of another."""
    return f"slide{number:06d}"


def write_many(root: Path, slides: int) -> None:
    """Write `slides` tiny slides."""
    first = slide_name(0)
    paths = write_tiny(root, first)
    for path in paths:
        content, name = path.read_bytes(), first.encode()
        assert name in content, f"{path} does not name its slide"
        for number in range(1, slides):
            other = path.with_name(path.name.replace(first, slide_name(number)))
            other.write_bytes(content.replace(name, slide_name(number).encode()))


def write_tiny(root: Path, slide_id: str) -> list[Path]:
    """Write one slide of nine spots; returns its files."""
    cells = np.stack(np.divmod(np.arange(9), 3), axis=1).astype(np.int32)
    place = Patches(cells * 400.0 + 400, np.array([f"{r}x{c}" for r, c in cells], dtype=np.str_), cells)
    record = SlideRecord(
        slide_id, f"unknown:{slide_id}", 2000, 2000, 0.5, "manifest", {"manifest": 0.5}, "made up", "none", "benchmark"
    )
    write_slide(slide_path(root, slide_id), record, thumbnail=np.zeros((8, 8, 3), np.uint8))
    write_patches(patches_path(root, slide_id), place, slide_id=slide_id)
    counts = csr_matrix(np.arange(9 * 20, dtype=np.float32).reshape(9, 20) % 3)
    genes = np.array([f"gene{i}" for i in range(20)], dtype=np.str_)
    write_expression(
        expression_path(root, slide_id), Expression(counts, genes, place.barcode), place, slide_id=slide_id
    )
    paths = [slide_path(root, slide_id), patches_path(root, slide_id), expression_path(root, slide_id)]
    for key in KEYS:
        path = features_path(root, slide_id, key=key)
        header = FeatureHeader(slide_id, "f" * 64, {"key": "toy"}, 0.5, 112.0, 1.0, "fp32", place.digest, 0.5, "none")
        with write_features(path, header, shape=(9, 8)) as writer:
            writer.append(np.random.default_rng(len(key)).normal(size=(9, 8)).astype(np.float32))
        paths.append(path)
    return paths


def _status_seconds(root: Path) -> float:
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("tissuary")), "status", str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _cpu_seconds() -> float:
    """Of all commands so far; on a machine that others use too, it says more than the clock."""
    times = os.times()
    return times.children_user + times.children_system


def _status_after_a_change(root: Path, number: int) -> float:
    """Seconds of the status that brings the catalogue up to date; the one after it must find nothing to do."""
    path = slide_path(root, slide_name(number))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    seconds = _status_seconds(root)
    written = (root / COLUMNS).stat().st_mtime_ns
    _status_seconds(root)
    assert (root / COLUMNS).stat().st_mtime_ns == written
    return seconds


def _open(root: Path, slides: list[str]) -> tuple[float, ...]:
    found = subprocess.run([sys.executable, "-c", _OPEN, root, *slides], check=True, capture_output=True, text=True)
    return tuple(float(number) for number in found.stdout.split())


if __name__ == "__main__":
    main()
