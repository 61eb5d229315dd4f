"""How fast neighbours in tissue come, in their exact order, against a bare tree query that leaves ties to chance.

    python -m tissuary.benchmarks.neighbours [--rows 100000] [--k 32]

Both sides build their tree and find the same k + 1 spots (a spot and its k nearest) on one thread, in turns. `array` is
a hexagonal array of 100 um, row by row, where every distance is shared by several neighbours; `shuffled` the same in
the order of barcodes, which is none; `scattered` has spots anywhere. The other kinds of neighbour have no ceiling
to compare with: their rates are printed beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..store.arrays import Floats, Ints
from ..store.spatial.places import Places

REPEATS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--k", type=int, default=32)
    options = parser.parse_args()
    array, center_um = _hexagonal(options.rows)
    rng = np.random.default_rng(0)
    layouts = {
        "array": center_um,
        "shuffled": center_um[rng.permutation(len(center_um))],
        "scattered": rng.uniform(center_um.min(), center_um.max(), size=center_um.shape),
    }
    ratios = {name: _against_scipy(name, places, options.k) for name, places in layouts.items()}
    places = Places(center_um, array=array)
    kinds: dict[str, Callable[[], Any]] = {
        "within 300 um": lambda: places.within_radius(300.0),
        "rings": lambda: places.rings((0, 300, 600), 8),
        "hex window 5": lambda: places.lattice(5, kind="hex"),
    }
    for name, run in kinds.items():
        print(f"{name:14s} {options.rows / _seconds(run) / 1e3:8.0f} thousand rows/s")
    for name, ratio in ratios.items():
        print(f"neighbours_{name} ratio={ratio:.3f} goal=0.4")


def _against_scipy(name: str, center_um: Floats, k: int) -> float:
    def bare() -> Floats:
        away, _ = cKDTree(center_um).query(center_um, k=k + 1)
        return np.asarray(away)

    def ours() -> Floats:
        return Places(center_um).nearest(k).distance

    assert np.allclose(ours(), bare()[:, 1:]), "the distances differ"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):  # in turns, so that a busy machine slows both sides alike
        for side, run in enumerate((ours, bare)):
            times[side].append(_seconds(run))
    mine, best = (float(np.median(side)) for side in times)
    rows = len(center_um) / 1e3
    print(f"{name:14s} store {rows / mine:8.0f} thousand rows/s   bare tree {rows / best:8.0f}")
    return best / mine


def _hexagonal(n: int) -> tuple[Ints, Floats]:
    """Array positions and centres of n spots 100 um apart, row by row."""
    columns = round(n**0.5)
    row, place = np.divmod(np.arange(n), columns)
    array = np.stack([row, 2 * place + row % 2], axis=1)
    return array, np.stack([array[:, 1] * 50.0, array[:, 0] * 50.0 * 3**0.5], axis=1)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
