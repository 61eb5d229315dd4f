"""Peak memory of predicting a slide, and one four times as large; and spots per second over the bare head.

    python -m tissuary.benchmarks.predict [--rows 20000] [--dim 256] [--genes 250] [--head ridge]

Features are generated. Each side of the memory is a process of its own, its peak what the operating system says; pages
of mapped files count, although the system takes them back when it needs them. Pictures and GeoJSON are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_RUN = """
import re, sys, time
from pathlib import Path
import torch
from tissuary.heads import PredictOptions, predict
from tissuary.heads.prediction.run import load_run
from tissuary.store import Store
torch.set_num_threads(1)
run, store, patches = load_run(Path(sys.argv[1])), Store(sys.argv[2]), "grid-112um"
start = time.perf_counter()
options = PredictOptions(pictures=False, geojson=False)
told = predict(run, store, sys.argv[3], options=options)
whole = time.perf_counter() - start
assert not told.failed, told.failed
peak = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
prepared = run.saved.prepare(store.table(run.familiarity.keys, patches=patches, expression=False))
start = time.perf_counter()
run.saved.predict_prepared(prepared)
print(peak, whole, time.perf_counter() - start)
"""


def write_slide_of(root: Path, slide_id: str, rows: int, dim: int, genes: int) -> None:
    """A slide with random features: measured spots where there are genes, else a grid."""
    from scipy.sparse import csr_matrix

    from ..store.files.expression import Expression, write_expression
    from ..store.files.features import FeatureHeader, write_features
    from ..store.files.patches import Patches, write_patches
    from ..store.files.schema import expression_path, features_path, patches_path, slide_path
    from ..store.files.slide import SlideRecord, write_slide

    rng, patches, side = np.random.default_rng(rows), "spots" if genes else "grid-112um", int(np.ceil(np.sqrt(rows)))
    cells = np.stack(np.divmod(np.arange(rows), side), axis=1)[:, ::-1]
    place = Patches((cells + 1.0) * 224, np.array([f"{x}x{y}" for x, y in cells], dtype=np.str_))
    size = 224 * (side + 1)
    record = SlideRecord(slide_id, slide_id, size, size, 0.5, "manifest", {"manifest": 0.5}, "made up", "none", "-")
    write_slide(slide_path(root, slide_id), record, thumbnail=None)
    write_patches(patches_path(root, slide_id, patches=patches), place, slide_id=slide_id)
    header = FeatureHeader(slide_id, "made up", {}, 0.5, 112.0, 1.0, "fp32", place.digest, 0.5, "none")
    path = features_path(root, slide_id, key="made-up@20x", patches=patches)
    with write_features(path, header, shape=(rows, dim)) as writer:
        for start in range(0, rows, 4096):
            writer.append(rng.normal(size=(min(4096, rows - start), dim)).astype(np.float32))
    if genes:
        counts = csr_matrix(rng.poisson(2.0, size=(rows, genes)).astype(np.float32))
        names = np.array([f"gene{one}" for one in range(genes)], dtype=np.str_)
        path = expression_path(root, slide_id)
        write_expression(path, Expression(counts, names, place.barcode), place, slide_id=slide_id)


def main() -> None:
    """Measure and print."""
    from ..heads import TrainOptions, train

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--head", default="ridge")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for slide in ("a", "b", "c"):
            write_slide_of(folder / "measured", slide, 500, options.dim, options.genes)
        train(folder / "measured", folder / "run", options=TrainOptions(head=options.head))
        for times in (1, 4):
            rows = times * options.rows
            write_slide_of(folder / f"x{times}", "dense", rows, options.dim, 0)
            paths = [str(folder / one) for one in ("run", f"x{times}", f"out{times}")]
            command = [sys.executable, "-c", _RUN, *paths]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found.append([float(one) for one in told])
            peak, whole, bare = found[-1]
            print(
                f"{rows} spots x {options.dim}: peak {peak / 1024:.0f} MiB, {rows / whole:.0f} spots/s in all, ", end=""
            )
            print(f"the head alone {rows / bare:.0f} spots/s")
    print(f"predict-memory ratio={found[1][0] / found[0][0]:.3f} goal=1.1")


if __name__ == "__main__":
    main()
