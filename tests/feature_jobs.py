"""A small feature file in the making, for the tests that cut, rewind and kill it."""

import numpy as np

from tissuary.store.files.features import FeatureHeader
from tissuary.store.files.writer import open_job

PLAN = {"batch": 32, "threads": 1, "torch": "2.13.0", "device": "cpu"}
HEADER = FeatureHeader(
    "C2", "f" * 64, {"key": "toy"}, 0.5, 112.0, 1.0, "fp32", "d" * 64, 0.5, "e" * 64, block_rows=8, plan=PLAN
)
N, BLOCK = 40, 8
ORDER = np.random.default_rng(5).permutation(N)
VALUES = np.random.default_rng(6).normal(size=(N, 6)).astype(np.float32)
WIDE = VALUES.copy()
WIDE[ORDER[2 * BLOCK + 3], 4] = 70_000.0  # past fp16's 65,504: the third block visited makes the file fp32


def start(path, values=VALUES, *, order=ORDER, plan=PLAN, header=HEADER, block_rows=BLOCK):
    return open_job(path, header, shape=values.shape, plan=plan, block_rows=block_rows, order=order)


def write(job, values=VALUES, *, until=None, order=ORDER, block_rows=BLOCK):
    while job.blocks_done < (job.blocks if until is None else until):
        rows = order[job.blocks_done * block_rows : (job.blocks_done + 1) * block_rows]
        job.write(rows, values[rows])


def complete(path, values=VALUES, *, order=ORDER):
    with start(path, values, order=order) as job:
        write(job, values, order=order)
        job.finish()
    return path.read_bytes()


def hidden(path):
    return sorted(found.name for found in path.parent.iterdir() if found != path)
