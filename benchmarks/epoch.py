"""A training epoch over a store larger than the memory it may use; resident memory must stay under the limit.

    python -m tissuary.benchmarks.epoch [--store-mib 3072] [--limit-mib 768] [--slides 24] [--batch 512] [--k 8]

A child process under `ulimit -d` opens a store whose features are `--store-mib` on disk and gathers every row once, in
random order over all slides, in batches, each row with `k` neighbours in tissue at one view.
The same is run without a limit. Peak resident memory is the kernel's (`VmHWM`), mapped pages included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ..store import Store
from ..store.files.features import FeatureHeader, write_features
from ..store.files.patches import Patches, write_patches
from ..store.files.schema import features_path, patches_path, slide_path
from ..store.files.slide import SlideRecord, write_slide

DIM = 1024
KEYS = ("bench@20x", "bench@10x")
PITCH_PX = 200.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store-mib", type=int, default=3072)
    parser.add_argument("--limit-mib", type=int, default=768)
    parser.add_argument("--slides", type=int, default=24)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        seconds, rows = epoch(given.child, batch=given.batch, k=given.k)
        print(f"{seconds} {rows} {peak_bytes()}")
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = given.store_mib * 2**20 // (2 * DIM * len(KEYS) * given.slides)
        write_store(Path(folder), slides=given.slides, rows=rows)
        for name, limit in (("without a limit", None), (f"limit {given.limit_mib} MiB", given.limit_mib * 2**20)):
            seconds, count, peak = run(Path(folder), given, limit=limit)
            print(
                f"{name:16s} {given.store_mib} MiB of features: {count / seconds:8.0f} rows/s with {given.k} "
                f"neighbours each, peak {peak / 2**20:.0f} MiB"
            )
    print(f"epoch_memory ratio={peak / (given.limit_mib * 2**20):.3f} goal=1.0")


def run(store: Path, given: argparse.Namespace, *, limit: int | None) -> tuple[float, int, int]:
    """Seconds, rows and peak bytes of an epoch in a process of its own."""
    command = [sys.executable, "-m", "tissuary.benchmarks.epoch", "--child", str(store)]
    command += ["--batch", str(given.batch), "--k", str(given.k)]

    def under_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    done = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=under_limit)
    seconds, rows, peak = done.stdout.split()
    return float(seconds), int(rows), int(peak)


def epoch(store: Path, *, batch: int, k: int) -> tuple[float, int]:
    """Gather every row once in random order, with its neighbours; seconds and rows."""
    table = Store(store).table(KEYS, patches="grid-100um", expression=False)
    near = table.neighbours(k)
    order = np.random.default_rng(0).permutation(len(table))
    started = time.perf_counter()
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        table.features(rows=rows)
        table.features(KEYS[0], rows=near.index[rows], mask=near.mask[rows])
    return time.perf_counter() - started, len(order)


def peak_bytes() -> int:
    """Largest resident memory of this process so far, as the kernel counts it."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def write_store(root: Path, *, slides: int, rows: int) -> None:
    """A store of slides with features of two views on a square grid."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(rows)))
    line, column = np.divmod(np.arange(rows), side)
    center_px = (np.stack([column, line], axis=1) + 1.0) * PITCH_PX  # (rows, 2)
    size = int((side + 2) * PITCH_PX)
    for number in range(slides):
        name = f"slide{number:03d}"
        record = SlideRecord(name, name, size, size, 0.5, "manifest", {"manifest": 0.5}, "made", "none", "benchmark")
        write_slide(slide_path(root, name), record, thumbnail=np.zeros((8, 8, 3), np.uint8))
        places = Patches(center_px, np.array([f"{r}x{c}" for r, c in zip(line, column, strict=True)]))
        write_patches(patches_path(root, name, patches="grid-100um"), places, slide_id=name)
        for key in KEYS:
            header = FeatureHeader(name, key, {}, 0.5, 112.0, 1.0, "fp32", places.digest, 0.5, "none")
            path = features_path(root, name, key=key, patches="grid-100um")
            with write_features(path, header, shape=(rows, DIM)) as writer:
                for start in range(0, rows, 4096):
                    writer.append(rng.standard_normal((min(4096, rows - start), DIM), dtype=np.float32))


if __name__ == "__main__":
    main()
