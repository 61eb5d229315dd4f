"""Map a slide of 18.5k x 19.8k px on a dense grid, kill the job again and again, and compare with one left in peace.

    python -m tissuary.benchmarks.dense_map STORE [--head ridge] [--views 20x] [--grid-um 56] [--kills 6] [--seed 0]

STORE has measured slides with `stain-texture` features of these views: a head is trained on it. The slide is a real
section, 2 x 2 times; beside it the section once, so that peaks of memory can be compared. Every job is a process of its
own. It is killed after some of its blocks, and twice while it draws; all files that the killed jobs end
in must be those of the undisturbed one, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from ..heads import TrainOptions, train
from .section_slide import write_section_slide

_PEAK = """
import re
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""

_FEATURIZE = """
import sys
from tissuary.featurize import FeaturizeOptions, featurize
options = FeaturizeOptions(patches="grid", grid_um=(float(sys.argv[3]),), views=tuple(sys.argv[4:]))
report = featurize(sys.argv[1], sys.argv[2], options=options)
assert not report.failed, report.failed
print(sum(slide.patches for slide in report.done))
"""

_PREDICT = """
import sys
import torch
from tissuary.heads import PredictOptions, predict
torch.set_num_threads(1)
told = lambda slide, done, total: print("rows", done, total, file=sys.stderr, flush=True)
options = PredictOptions(block_rows=int(sys.argv[4]))
report = predict(sys.argv[1], sys.argv[2], sys.argv[3], options=options, progress=told)
assert not report.failed, report.failed
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--head", default="ridge")
    parser.add_argument("--views", nargs="+", default=["20x"])
    parser.add_argument("--grid-um", type=float, default=56.0)
    parser.add_argument("--block-rows", type=int, default=256)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        train(
            given.store, run, options=TrainOptions(head=given.head, backbone="stain-texture", views=tuple(given.views))
        )
        featurized, predicted = [], []
        for times in (1, 2):
            slide = write_section_slide(folder / f"section-{times}x{times}.tif", times=times)
            store, out = folder / f"store{times}", folder / f"maps{times}"
            patches, peak, seconds = _job(_FEATURIZE, slide, store, given.grid_um, *given.views)
            featurized.append(peak)
            print(f"{times} x {times} sections: {patches} patches, featurized in {seconds:.1f} s, peak {peak:.0f} MiB")
            _, peak, seconds = _job(_PREDICT, run, store, out, given.block_rows)
            predicted.append(peak)
            print(f"  mapped in {seconds:.1f} s in blocks of {given.block_rows} rows, peak {peak:.0f} MiB")
        command = [str(one) for one in (run, folder / "store2", folder / "killed", given.block_rows)]
        at = kill_and_resume(command, kills=given.kills, within_s=seconds, seed=given.seed)
        different = differences(folder / "maps2", folder / "killed")
    print(f"killed after {', '.join(at)}; different: {different or 'nothing'}")
    print(f"dense-featurize-memory ratio={featurized[1] / featurized[0]:.3f} goal=1.1")
    print(f"dense-map-memory ratio={predicted[1] / predicted[0]:.3f} goal=1.1")
    if different:
        sys.exit(1)


def _job(code: str, *arguments: object) -> tuple[int, float, float]:
    """Run code in a process: the number that it prints first (or 0), its peak memory in MiB, and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code + _PEAK, *map(str, arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(told[0]) if len(told) > 1 else 0, int(told[-1]) / 1024, time.perf_counter() - start


def kill_and_resume(command: list[str], *, kills: int, within_s: float, seed: int) -> list[str]:
    """Kill a prediction after some of its blocks, then twice while it draws, and let it end; when it was killed.

    Each job must begin where the one before it was killed, or behind.
    """
    rng, at, done = np.random.default_rng(seed), [], 0
    whole = Path(command[2]) / "section-2x2.h5ad"
    for number in range(kills):
        job = subprocess.Popen([sys.executable, "-c", _PREDICT, *command], stderr=subprocess.PIPE, text=True)
        assert job.stderr is not None
        if number < kills - 2:
            lines = (line.split()[1:] for line in job.stderr if line.startswith("rows "))
            rows = [tuple(map(int, line)) for line in islice(lines, int(rng.integers(1, 5)))]
            assert rows, f"job {number} ended before it could be killed: give more kills a chance by smaller blocks"
            assert rows[0][0] >= done, f"job {number} began anew at {rows[0][0]} rows, of {done} that were done"
            done = rows[-1][0]
            at.append(f"{done} of {rows[-1][1]} rows")
        else:
            wait = rng.uniform(0.1, 0.9) if not whole.exists() else rng.uniform(0.5, 0.9) * within_s
            while not whole.exists():
                time.sleep(0.01)
            time.sleep(wait)
            at.append(f"{len(list(whole.parent.glob('*.png')))} pictures")
        assert job.poll() is None, f"job {number} ended before it was killed"
        job.send_signal(signal.SIGKILL)
        job.communicate()
    subprocess.run([sys.executable, "-c", _PREDICT, *command], check=True, capture_output=True)
    return at


def differences(whole: Path, killed: Path) -> list[str]:
    """Names of files that are not the same, and of what killed jobs left behind."""
    ours, theirs = (
        {path.relative_to(one).as_posix(): path for path in one.rglob("*") if path.is_file()} for one in (killed, whole)
    )
    names = [name for name in sorted(ours.keys() | theirs.keys()) if not name.startswith(".locks" + os.sep)]
    return [n for n in names if n not in ours or n not in theirs or ours[n].read_bytes() != theirs[n].read_bytes()]


if __name__ == "__main__":
    main()
