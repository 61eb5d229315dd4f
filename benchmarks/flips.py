"""Whether `verify` finds and names every flipped byte, and opening refuses every file that was cut short.

    python -m tissuary.benchmarks.flips [--flips 1000] [--outside 300] [--truncations 200] [--seed 0]

A synthetic cohort is featurized (spots and two nested grids, two views, a token grid), features in float32 and in
chunks are put beside them, and one key is indexed. Then one byte of one dataset of one file is changed at a time: file,
dataset and byte are drawn at random, strings by their references and by their text; a file of an index counts as one
dataset. A flip is found when `verify` names the file and the dataset, and of features the block. Flips outside datasets
(headers, attributes, names) are counted apart: found, or without any effect on what h5py reads, or missed. Truncated
files are opened through the readers and through a table; each must refuse with the store's own error. Every file is put
back after its turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..featurize.options import FeaturizeOptions
from ..featurize.pipeline import featurize
from ..store import Store
from ..store.catalog import load_catalog
from ..store.catalog_file import CATALOG, COLUMNS
from ..store.errors import StoreError
from ..store.files.expression import read_expression
from ..store.files.features import read_features, write_features
from ..store.files.patches import read_patches
from ..store.files.schema import FEATURES, create_h5, features_path
from ..store.files.slide import read_slide, read_thumbnail
from ..store.verify.verify import verify_store
from ..synthetic.cohort import write_cohort
from .h5_bytes import changed, everything_in, outside, rotten, spans_of

KEY = "stain-texture@20x"
KINDS = ("slides", "patches", "features", "expression")


def main() -> None:
    """Make the store, flip, cut and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--outside", type=int, default=300)
    parser.add_argument("--truncations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = make_store(Path(folder))
        assert not verify_store(root), verify_store(root)
        start = time.perf_counter()
        missed = [flip for flip in (flip_one(root, rng) for _ in range(options.flips)) if flip]
        seconds, found = time.perf_counter() - start, options.flips - len(missed)
        _say(*missed)
        _say(
            f"{found} of {options.flips} flips found and named, {seconds / max(1, options.flips):.2f} s a whole verify"
        )
        beside = Counter(flip_outside(root, rng) for _ in range(options.outside))
        _say(*(line for line in beside if line.startswith("MISSED")))
        _say(f"{options.outside} flips outside datasets: {beside['found']} found, {beside['no effect']} without effect")
        opened = [cut for cut in (cut_one(root, rng) for _ in range(options.truncations)) if cut]
        refused = options.truncations - len(opened)
        _say(*opened, f"{refused} of {options.truncations} truncated files refused at opening")
        assert not verify_store(root), "the store was not put back"
    _say(f"flips ratio={found / max(1, options.flips):.3f} goal=1.0")
    _say(f"truncations ratio={refused / max(1, options.truncations):.3f} goal=1.0")


def make_store(folder: Path) -> Path:
    """Featurize and index a small cohort with everything that a store can hold."""
    cohort = write_cohort(folder / "cohort", patients=2, slides_per_patient=1, spots_per_side=5, n_genes=60)
    options = FeaturizeOptions(
        views=("20x", "5x"), patches="both", grid_um=(224.0, 448.0), min_tissue=0.2, tokens=("7x7",)
    )
    report = featurize(cohort, folder / "store", options=options)
    assert not report.failed, report.failed
    store = Store(folder / "store")
    for slide_id in store.slide_ids:
        add_other_layouts(store.path, slide_id, like=KEY)
    store = Store(store.path)
    store.build_index(KEY)
    assert store.entries
    return store.path


def add_other_layouts(root: Path, slide_id: str, *, like: str) -> None:
    """Features as featurize writes none of a small cohort: in float32, and in chunks, both of several blocks."""
    header = replace(read_features(features_path(root, slide_id, key=like)).header, block_rows=8)
    rows = len(read_patches(root / "patches" / "spots" / f"{slide_id}.h5"))
    values = np.random.default_rng(rows).normal(size=(rows, 64)).astype(np.float32)
    wide = features_path(root, slide_id, key="wide@20x")
    with write_features(wide, header, shape=values.shape, dtype=np.dtype(np.float32)) as writer:
        writer.append(values)
    plain, path = (features_path(root, slide_id, key=f"{name}@20x") for name in ("plain", "chunked"))
    with write_features(plain, header, shape=values.shape) as writer:
        writer.append(values)
    _copy_in_chunks(plain, path)


def flip_one(root: Path, rng: np.random.Generator) -> str:
    """Flip one byte and verify; returns what was missed, if it was."""
    path = _draw_file(root, rng)
    spans = list(spans_of(path))
    names = sorted({span.dataset for span in spans})
    name = names[rng.integers(len(names))]
    some = [span for span in spans if span.dataset == name and span.size]
    if not some:
        return flip_one(root, rng)
    span = some[rng.integers(len(some))]
    at = int(rng.integers(span.size))
    block = _block_of(path, name, span.start + at)
    relative = path.relative_to(root).as_posix()
    with rotten(path, span.offset + at, flip=int(rng.integers(1, 256))):
        problems = verify_store(root)
    named = (
        problem
        for problem in problems
        if problem.path == relative and name in (problem.dataset, *problem.what.replace("[", " ").split())
    )
    if any(block is None or problem.where.startswith(f"block {block} ") for problem in named):
        return ""
    return f"MISSED byte {at} of {relative}, dataset {name or '(all of it)'}, block {block}: {problems}"


def flip_outside(root: Path, rng: np.random.Generator) -> str:
    """Flip one byte of no dataset: "found", "no effect" where h5py reads the same as before, else what was missed."""
    path = _draw_file(root, rng, kinds=KINDS)
    places = outside(path)
    place, flip = int(places[rng.integers(len(places))]), int(rng.integers(1, 256))
    relative, before = path.relative_to(root).as_posix(), everything_in(path)
    with rotten(path, place, flip=flip):
        if any(problem.path == relative for problem in verify_store(root)):
            return "found"
        return "no effect" if everything_in(path) == before else f"MISSED byte {place} of {relative}"


def cut_one(root: Path, rng: np.random.Generator) -> str:
    """Truncate one file and open it; returns what was not refused, if it was not."""
    path = _draw_file(root, rng, extra=(CATALOG, COLUMNS))
    with changed(path) as content:
        length = int(rng.integers(len(content)))
        path.write_bytes(content[:length])
        if path.name in (CATALOG, COLUMNS):
            return "" if len(load_catalog(root)) == _count(root) else f"OPENED {path} at {length} bytes"
        for reader in _readers(root, path):
            try:
                reader()
            except StoreError:
                continue
            return f"OPENED {path} at {length} of {len(content)} bytes"
    return ""


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _copy_in_chunks(plain: Path, path: Path) -> None:
    """Move features into a resizable dataset with chunks of a page, laid out in another order than their rows."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(plain) as source, create_h5(path, FEATURES) as file:
        file.attrs.update(source.attrs)
        rows, step = source["features"][()], 4096 // source["features"][:1].nbytes
        chunked = file.create_dataset("features", rows.shape, rows.dtype, chunks=(step, 64), maxshape=(None, 64))
        for start in reversed(range(0, len(rows), step)):
            chunked[start : start + step] = rows[start : start + step]
        file["crc32"] = source["crc32"][()]
    plain.unlink()
    plain.parent.rmdir() if not any(plain.parent.iterdir()) else None


def _block_of(path: Path, name: str, place: int) -> int | None:
    if path.parts[-4] != "features":
        return None
    opened = read_features(path)
    row_bytes = opened.features[:1].nbytes
    return place // 4 if name == "crc32" else place // row_bytes // opened.header.block_rows


def _draw_file(
    root: Path, rng: np.random.Generator, *, kinds: tuple[str, ...] = (*KINDS, "indexes"), extra: tuple[str, ...] = ()
) -> Path:
    """A file of a kind drawn first, as there are many more files of features than of all others."""
    groups = [sorted(root.glob(f"{kind}/**/[!.]*.*")) for kind in kinds] + [[root / name] for name in extra]
    drawn = [files for files in ([one for one in group if one.is_file()] for group in groups) if files]
    files = drawn[rng.integers(len(drawn))]
    return files[rng.integers(len(files))]


def _readers(root: Path, path: Path) -> list[Callable[[], Any]]:
    folder = path.relative_to(root).parts[0]
    of_key = folder in ("features", "indexes")
    key = path.parent.name.removeprefix("spots.") if of_key else _first(root / "features/spots")
    slide = _first(root / "slides") if folder == "indexes" else path.name.rsplit(".", 1)[0]
    readers: dict[str, list[Callable[[], Any]]] = {
        "slides": [lambda: read_slide(path), lambda: read_thumbnail(path)],
        "patches": [lambda: read_patches(path)],
        "features": [lambda: np.asarray(read_features(path).features).sum()],
        "expression": [lambda: read_expression(path)],
        "indexes": [lambda: Store(root).search(slide, 0, key=key)],
    }
    if folder != "indexes" and (folder in ("slides", "expression") or "spots" in path.parts):
        readers[folder].append(lambda: Store(root).table(key, slides=[slide]))
    return readers[folder]


def _first(folder: Path) -> str:
    """Name of the first file or folder, without `.h5`."""
    return min(path.name for path in folder.iterdir() if path.name[0] != ".").removesuffix(".h5")


def _count(root: Path) -> int:
    return sum(len(list(root.glob(f"{kind}/**/[!.]*.h5*"))) for kind in KINDS)


if __name__ == "__main__":
    main()
