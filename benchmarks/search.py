"""How fast and how truly a store is searched, against bare FAISS over the same vectors.

    python -m tissuary.benchmarks.search [--rows 200000] [--dim 1024] [--slides 40] [--skip-ivf]

Clustered rows are written as a store, indexed and searched through its own doors. Exact search runs in turns with
`faiss.IndexFlatIP` on the vectors of the index; recall is counted by row against brute force in float64 over the
feature files, which shares no code with the search. Inverted lists are set for a recall of 0.99 and then asked for
patches that were not in the sample they were set on. Where torch sees a GPU its path runs beside plain fp32 torch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..store import Store
from ..store.files.features import FeatureHeader, write_features
from ..store.files.patches import Patches, write_patches
from ..store.files.schema import features_path, patches_path, slide_path
from ..store.files.slide import SlideRecord, write_slide
from ..store.search.build import QUERIES
from ..store.search.lookup import open_index
from ..store.search.record import BuildOptions, sample_rows
from ..store.search.search import SearchIndex, nearest_rows

KEY = "benchmark@20x"
K = 10
BATCHES = ((1, 40), (32, 12), (512, 11))
"""Queries at once, and repeats."""
FRESH = 2000
BRUTE = 256
LATENT = 48
CLUSTERS = 400

Rows = NDArray[np.int64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--skip-ivf", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = _write_store(Path(folder), options.rows, options.dim, slides=options.slides)
        started = time.perf_counter()
        store.build_index(KEY)
        print(f"exact index of {options.rows} x {options.dim}: {time.perf_counter() - started:.0f} s, with its report")
        index = open_index(store, KEY, patches="spots")
        _exact(index)
        _exclusion(store, index)
        _gpu(index)
        if not options.skip_ivf:
            _inverted(store, index)


def _exact(index: SearchIndex) -> None:
    """Queries a second over bare FAISS, for one query, some and many."""
    import faiss

    bare = faiss.IndexFlatIP(index.flat.vectors(np.zeros(1, np.int64)).shape[1])
    for start in range(0, len(index), 16384):
        bare.add(index.flat.vectors(np.arange(start, min(start + 16384, len(index)))))
    rng = np.random.default_rng(1)
    for batch, repeats in BATCHES:
        rows = rng.choice(len(index), size=batch, replace=False)
        queries = index.flat.vectors(rows)
        ours, other = partial(nearest_rows, index, rows, K), partial(bare.search, queries, K)
        mine, ceiling, ratio = _in_turns(ours, other, repeats)
        print(f"{batch:4d} at once: store {batch / mine:7.1f} queries/s   IndexFlatIP {batch / ceiling:7.1f}")
        print(f"search_{batch} ratio={ratio:.3f} goal=0.95")


def _exclusion(store: Store, index: SearchIndex) -> None:
    """Recall against brute force, and what leaving rows out costs."""
    fresh = _fresh(index, BRUTE)
    patient = _patient(index)
    for exclude, group in ((None, None), ("slide", index.slide), ("patient", patient)):
        best = _brute_force(store, index, fresh, group)
        search = partial(nearest_rows, index, fresh, K, exclude=exclude)
        found, name = search()[1], exclude or "none"
        if exclude is not None:
            ratio = _in_turns(search, partial(nearest_rows, index, fresh, K), repeats=5)[2]
            print(f"exclude {name}: {1 / ratio:.2f} times as long as without, {len(fresh)} queries at once")
        print(f"search_recall_exclude_{name} ratio={_recall(found, best):.4f} goal=1.0")


def _inverted(store: Store, exact: SearchIndex) -> None:
    """Delivered recall of inverted lists, and how much faster they are."""
    fresh, patient = _fresh(exact, FRESH), _patient(exact)
    truth: dict[str | None, Rows] = {
        name: nearest_rows(exact, fresh, K, exclude=name)[1] for name in (None, "slide", "patient")
    }
    once = fresh[:512]
    started = time.perf_counter()
    store.build_index(KEY, options=BuildOptions(kind="ivf", recall=0.99))
    index = open_index(store, KEY, patches="spots")
    setting = index.record.ivf
    assert setting is not None
    print(f"IVF{setting.nlist},SQfp16: {time.perf_counter() - started:.0f} s, with its settings and report")
    for exclude, best in truth.items():
        found = nearest_rows(index, fresh, K, exclude=exclude)[1]
        name = exclude or "none"
        if exclude is not None:
            group = index.slide if exclude == "slide" else patient
            assert not (group[found] == group[fresh][:, None]).any(), "an excluded row came back"
        assert (found >= 0).all(), "fewer than k came back"
        ours, other = (partial(nearest_rows, one, once, K, exclude=exclude) for one in (index, exact))
        mine, ceiling, ratio = _in_turns(ours, other, repeats=3)
        print(
            f"exclude {name}: nprobe {setting.nprobe[name]}, measured {setting.recall[name]:.4f} when it was set; "
            f"{len(once) / mine:.0f} queries/s, exact {len(once) / ceiling:.0f}: {ratio:.1f} times as fast"
        )
        print(f"search_ivf_recall_exclude_{name} ratio={_recall(found, best):.4f} goal=0.99")


def _gpu(index: SearchIndex) -> None:
    """The half-precision path against plain fp32 on the same GPU."""
    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU: the half-precision path on one was not measured")
        return
    from ..store.search.gpu import TorchFlat

    torch.backends.cuda.matmul.allow_tf32 = False
    base = index.flat.vectors(np.arange(len(index)))
    ours, plain = TorchFlat(base, device="cuda"), torch.from_numpy(base).cuda()
    rows = _fresh(index, 4096)
    queries = base[rows]

    def fp32() -> Any:
        return (torch.from_numpy(queries).cuda() @ plain.T).topk(K, dim=1).indices.cpu().numpy()

    mine, ceiling, ratio = _in_turns(lambda: ours.top(queries, K, None), fp32)
    recall = _recall(np.asarray(ours.top(queries, K, None)[1], dtype=np.int64), fp32())
    print(f"{torch.cuda.get_device_name()}: {len(rows) / mine:.0f} queries/s, plain fp32 {len(rows) / ceiling:.0f}")
    print(f"search_gpu_over_fp32 ratio={ratio:.3f} goal=1.0")
    print(f"search_gpu_recall ratio={recall:.4f} goal=0.999")


def _in_turns(ours: Callable[[], Any], other: Callable[[], Any], repeats: int = 7) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the other's over ours, pair by pair, as a busy machine slows both."""
    ours(), other()
    times = []
    for turn in range(repeats):  # who goes first changes
        pair = [_seconds(run) for run in ((ours, other) if turn % 2 else (other, ours))]
        times.append(pair if turn % 2 else pair[::-1])
    mine, ceiling = np.array(times).T
    return float(np.median(mine)), float(np.median(ceiling)), float(np.median(ceiling / mine))


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _recall(found: Rows, best: Rows) -> float:
    """Share of the true rows that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, best, strict=True)]))


def _fresh(index: SearchIndex, n: int) -> Rows:
    """Rows that were not in the sample on which inverted lists are set."""
    rest = np.setdiff1d(np.arange(len(index)), sample_rows(index.slide, QUERIES, least=1))
    return np.sort(np.random.default_rng(2).choice(rest, size=min(n, len(rest)), replace=False))


def _patient(index: SearchIndex) -> Rows:
    return np.unique(np.array(index.record.patient_ids), return_inverse=True)[1][index.slide]


def _brute_force(store: Store, index: SearchIndex, queries: Rows, group: Any) -> Rows:
    """Rows (m, K) of largest cosine of the z-scored features, all in float64, straight from the files."""
    parts = [store.features(KEY, slide) for slide in index.record.slide_ids]
    n = sum(map(len, parts))
    mean = sum(np.asarray(part, np.float64).sum(0) for part in parts) / n
    deviation = np.sqrt(sum(((np.asarray(part, np.float64) - mean) ** 2).sum(0) for part in parts) / n)

    def unit(part: Any) -> NDArray[np.float64]:
        rows = (np.asarray(part, np.float64) - mean) / deviation
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    asked = unit(np.stack([parts[index.slide[row]][index.row[row]] for row in queries]))
    cosine = np.concatenate([asked @ unit(part).T for part in parts], axis=1)
    cosine[np.arange(len(queries)), queries] = -np.inf
    if group is not None:
        cosine[group[queries][:, None] == group[None]] = -np.inf
    return np.asarray(np.argpartition(-cosine, K, axis=1)[:, :K])


def _write_store(root: Path, rows: int, dim: int, *, slides: int) -> Store:
    """Slides of a cohort, two a patient: clusters in a latent space, a shift of each slide, a little noise."""
    rng = np.random.default_rng(0)
    centres, mixing = rng.normal(size=(CLUSTERS, LATENT)), rng.normal(size=(LATENT, dim)) / np.sqrt(LATENT)
    for i, count in enumerate(np.diff(np.linspace(0, rows, slides + 1).astype(int))):
        name = f"slide{i:03d}"
        record = SlideRecord(
            name, f"patient{i // 2:03d}", 10**5, 10**5, 0.5, "manifest", {"manifest": 0.5}, "made up", "none", "none"
        )
        write_slide(slide_path(root, name), record, thumbnail=None)
        place = Patches(np.stack([np.arange(count), np.zeros(count)], axis=1) * 224.0, np.arange(count).astype(str))
        write_patches(patches_path(root, name), place, slide_id=name)
        header = FeatureHeader(name, "benchmark", {}, 0.5, 112.0, 1.0, "fp32", place.digest, 0.5, "none")
        shift = 0.2 * rng.normal(size=dim)
        with write_features(features_path(root, name, key=KEY), header, shape=(count, dim)) as writer:
            for start in range(0, count, 4096):
                size = min(4096, count - start)
                latent = centres[rng.integers(0, CLUSTERS, size=size)] + 0.6 * rng.normal(size=(size, LATENT))
                values = latent @ mixing + shift + 0.05 * rng.normal(size=(size, dim))
                writer.append(values.astype(np.float32))
    return Store(root)


if __name__ == "__main__":
    main()
