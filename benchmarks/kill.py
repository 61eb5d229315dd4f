"""Kill -9 at random moments of a featurization, resume each time, and compare with an undisturbed run.

    python -m tissuary.benchmarks.kill [--kills 20] [--seed 0]

Every dataset and attribute must come out byte for byte the same, and no patch that lies more than one block before
the kill may be computed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..featurize.job_plan import Plan
from ..featurize.options import FeaturizeOptions
from ..synthetic.cohort import write_cohort

BATCH = 32
BLOCK_ROWS = Plan(BATCH, 1, "cpu", "", compiled=False).block_rows

TINY = {
    "key": "tiny",
    "loader": "timm",
    "architecture": "test_vit",
    "architecture_options": {"img_size": 64, "num_classes": 0},
    "input_px": 64,
    "resize": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "pooling": "cls",
    "dim": 64,
    "token_grid": [4, 4],
    "prefix_tokens": 1,
    "licence": "none: random weights",
}
"""A network so small that a job is reading and writing, and is soon done."""

_JOB = """
import os, sys, torch
from tissuary.benchmarks.kill import dense_options
from tissuary.featurize import featurize
torch.set_num_threads(1)
log = os.open(sys.argv[3], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def tell(slide, done, total):
    os.write(log, f"{slide} {done}\\n".encode())
report = featurize(sys.argv[1], sys.argv[2], options=dense_options(sys.argv[4]), progress=tell)
assert not report.failed, report.failed
"""


def dense_options(record: str) -> FeaturizeOptions:
    """A run of three blocks a slide, three files each, through the tiny network of a record file."""
    return FeaturizeOptions(
        views=("20x",),
        patches="grid",
        grid_um=(112.0,),
        overlap_um=72.0,
        min_tissue=0.2,
        backbones=(record,),
        weights={"tiny": "random"},
        tokens=("2x2",),
        batch=BATCH,
        readers=2,
    )


def main() -> None:
    """Kill, resume, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_cohort(folder / "cohort", patients=2, slides_per_patient=1, spots_per_side=5)
        seconds = undisturbed(manifest, folder)
        print(f"undisturbed: {seconds:.1f} s, {len(contents(folder / 'whole'))} datasets and attributes")
        recomputed, different = kill_and_resume(
            manifest, folder, whole=folder / "whole", kills=options.kills, seed=options.seed, within_s=seconds
        )
    print(f"{options.kills} kills; patches computed again after each, where some were: {recomputed}")
    print(f"different: {different or 'nothing'}; a block has {BLOCK_ROWS} patches")
    print(f"kill ratio={max(recomputed, default=0) / BLOCK_ROWS:.3f} goal=1.0")
    if different:
        sys.exit(1)


def undisturbed(manifest: Path, folder: Path) -> float:
    """Seconds of a whole run into `folder/whole`."""
    started = time.perf_counter()
    subprocess.run(_command(manifest, folder / "whole", folder / "whole.log"), check=True)
    return time.perf_counter() - started


def kill_and_resume(
    manifest: Path, folder: Path, *, whole: Path, kills: int, seed: int, within_s: float
) -> tuple[list[int], list[str]]:
    """Kill jobs at random moments, resume them until they are done, and begin another, until enough were killed.

    Returns
    -------
    tuple
        Patches that were computed again by the runs that found some done, and what differs from the undisturbed store.
    """
    rng = np.random.default_rng(seed)
    log, store = folder / "killed.log", folder / "killed"
    recomputed: list[int] = []
    different: list[str] = []
    furthest: dict[str, int] = {}
    killed = 0
    while killed < kills or store.exists():
        job = subprocess.Popen(_command(manifest, store, log))
        if killed < kills:
            with suppress(subprocess.TimeoutExpired):
                job.wait(timeout=float(rng.uniform(0.2, 1.0)) * within_s)
        if killed < kills and job.poll() is None:
            job.send_signal(signal.SIGKILL)
            killed += 1
        done = job.wait() == 0
        _read_log(log, furthest, recomputed)
        if done:
            different += differences(whole, store)
            shutil.rmtree(store)
            furthest.clear()
    return recomputed, different


def _read_log(log: Path, furthest: dict[str, int], recomputed: list[int]) -> None:
    """Book what the last run told of its progress, and how far behind the one before it began."""
    if not log.exists():
        return
    begun: set[str] = set()
    for line in log.read_text().splitlines():
        slide, done = line.split()
        if slide in furthest and slide not in begun:
            recomputed.append(max(0, furthest[slide] - (int(done) - BATCH)))
        begun.add(slide)
        furthest[slide] = int(done)
    log.unlink()


def contents(store: Path) -> dict[str, bytes]:
    """Every dataset and attribute of every HDF5 file of a store, by file and name."""
    import h5py

    found: dict[str, bytes] = {}
    for path in sorted(store.rglob("*.h5")):
        where = path.relative_to(store).as_posix()
        with h5py.File(path) as file:

            def note(name: str, item: Any, where: str = where) -> None:
                for attribute, value in item.attrs.items():
                    found[f"{where}:{name}@{attribute}"] = repr(value).encode()
                if isinstance(item, h5py.Dataset):
                    values = item[()]
                    plain = repr(values.tolist()).encode() if item.dtype == object else np.asarray(values).tobytes()
                    found[f"{where}:{name}"] = f"{item.dtype} {item.shape} ".encode() + plain

            note("/", file)
            file.visititems(note)
    return found


def differences(whole: Path, killed: Path) -> list[str]:
    """Names of what differs between two stores, and of unfinished files left behind."""
    ours, theirs = contents(killed), contents(whole)
    differing = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    left = [path.relative_to(killed).as_posix() for path in killed.rglob(".*") if path.is_file()]
    return differing + [name for name in left if not name.startswith(".locks/")]


def _command(manifest: Path, store: Path, log: Path) -> list[str]:
    record = manifest.parent / "tiny.json"
    record.write_text(json.dumps(TINY))
    return [sys.executable, "-c", _JOB, str(manifest), str(store), str(log), str(record)]


if __name__ == "__main__":
    main()
