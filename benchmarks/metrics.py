"""How long the scores of one fold take, all of them, against one numpy pass over the same bytes.

    python -m tissuary.benchmarks.metrics [--genes 5000] [--spots 100000] [--slides 25]

The pass casts both arrays to float64 block by block and multiplies them: what any exact score costs at least. Gene-gene
correlations grow with the square of the panel, so they are measured apart, on one slide, against the two bare matrix
products that they are made of. Peak memory is that of the process beyond the two arrays themselves.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr

from ..heads.protocols.scores.fold_score import FoldScore
from ..heads.protocols.scores.metrics import gene_correlation_agreement, score_fold
from ..heads.protocols.scores.moments import moments
from ..store.arrays import Floats, Ints

REPEATS = 3
PASS_ROWS = 64
CHECKED_GENES = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--spots", type=int, default=100_000)
    parser.add_argument("--slides", type=int, default=25)
    options = parser.parse_args()
    prediction, truth, slide, center_um = _fold(options.spots, options.genes, slides=options.slides)
    size = (prediction.nbytes + truth.nbytes) / 2**20
    before = _peak_mib()
    scores: list[FoldScore] = []
    top = np.arange(min(50, options.genes))

    def ours() -> None:
        scores[:] = [
            score_fold(
                prediction,
                truth,
                slide=slide,
                heg50=top,
                hvg50=top,
                center_um=center_um,
                gene_correlation=False,
            )
        ]

    ours_s, pass_s = _in_turns(ours, lambda: _one_pass(prediction, truth))
    extra = _peak_mib() - before
    _check(scores[0], prediction, truth, slide)
    first = slide == 0
    p, t = prediction[first], truth[first]
    part = moments(p, t)
    gram_s, bare_s = _in_turns(lambda: _discard(gene_correlation_agreement(p, t, part)), lambda: _bare_products(p, t))
    print(f"{options.spots} spots x {options.genes} genes on {options.slides} slides, {size:.0f} MiB")
    print(f"all scores but one {ours_s:7.2f} s   one pass {pass_s:6.2f} s   memory beyond the arrays {extra:.0f} MiB")
    print(f"gene correlations of one slide, {len(p)} spots {gram_s:7.2f} s   two bare products {bare_s:7.2f} s")
    print(f"metrics ratio={pass_s / ours_s:.3f} goal=0.04")
    print(f"metrics_gene_correlation ratio={bare_s / gram_s:.3f} goal=0.8")
    print(f"metrics_memory ratio={extra / size:.3f} goal=0.1")


def _fold(n: int, g: int, *, slides: int) -> tuple[NDArray[np.float32], NDArray[np.float32], Ints, Floats]:
    """Predictions that follow the truth, on square arrays, one slide after the other."""
    rng = np.random.default_rng(0)
    prediction, truth = (np.empty((n, g), dtype=np.float32) for _ in range(2))
    for start in range(0, n, 256):
        at = slice(start, min(start + 256, n))
        truth[at] = rng.standard_normal(truth[at].shape, dtype=np.float32) + 2
        prediction[at] = 0.5 * truth[at] + rng.standard_normal(truth[at].shape, dtype=np.float32)
    slide = np.arange(n) * slides // n
    place = np.arange(n) - np.searchsorted(slide, slide)
    side = int(np.ceil(np.sqrt(n / slides)))
    return prediction, truth, slide, np.column_stack([place % side, place // side]) * 100.0


def _one_pass(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
    """Read both once, as float64, and sum their products."""
    work = np.empty((2, PASS_ROWS, truth.shape[1]))
    total = np.zeros(truth.shape[1])
    for start in range(0, len(truth), PASS_ROWS):
        p, t = work[:, : min(PASS_ROWS, len(truth) - start)]
        p[...], t[...] = prediction[start : start + PASS_ROWS], truth[start : start + PASS_ROWS]
        total += np.einsum("ij,ij->j", p, t)


def _bare_products(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
    """Both Gram matrices as numpy makes them in one go, neither centred nor scaled."""
    for values in (prediction, truth):
        z = values.astype(np.float64)
        _discard(z.T @ z)


def _check(score: FoldScore, prediction: Any, truth: Any, slide: Ints) -> None:
    """Compare some genes of the first and the last slide with scipy."""
    genes = np.linspace(0, truth.shape[1] - 1, CHECKED_GENES).astype(int)
    for at in (0, -1):
        rows = slide == score.slides[at]
        for gene in genes:
            p, t = prediction[rows, gene].astype(np.float64), truth[rows, gene].astype(np.float64)
            assert abs(score.pearson[at, gene] - pearsonr(p, t)[0]) < 1e-10, "not scipy's"


def _in_turns(*sides: Callable[[], None]) -> list[float]:
    """Median seconds of each, run in turns so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for taken, side in zip(times, sides, strict=True):
            started = time.perf_counter()
            side()
            taken.append(time.perf_counter() - started)
    return [float(np.median(taken)) for taken in times]


def _discard(_: object) -> None:
    """Drop a result."""


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
