"""Whether `verify` finds and names every flipped byte, and opening refuses every file that was cut short.

    python -m tissuary.benchmarks.flips [--flips 1000] [--truncations 200] [--seed 0]

A synthetic cohort is featurized (spots and two nested grids, two views, a token grid) and indexed. Then one byte of
one dataset of one file is changed at a time: file, dataset and byte are drawn at random, strings by their references
and by their text; a file of an index counts as one dataset. A flip is found when `verify` names the file and the
dataset, and of features the block. Truncated files are opened through the readers and through a table; each must
refuse with the store's own error. Every file is put back after its turn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..featurize.options import FeaturizeOptions
from ..featurize.pipeline import featurize
from ..featurize.synthetic.cohort import write_cohort
from ..store import Store
from ..store.catalog import load_catalog
from ..store.catalog_file import CATALOG, COLUMNS
from ..store.errors import StoreError
from ..store.expression import read_expression
from ..store.feature_file import read_features
from ..store.patch_file import read_patches
from ..store.slide_file import read_slide, read_thumbnail
from ..store.verify import verify_store

Span = tuple[str, int, int]
"""Dataset, and where in the file some of its bytes lie: offset and size."""


def main() -> None:
    """Make the store, flip, cut and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--truncations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = make_store(Path(folder))
        assert not verify_store(root), verify_store(root)
        start = time.perf_counter()
        missed = [flip for flip in (flip_one(root, rng) for _ in range(options.flips)) if flip]
        seconds = time.perf_counter() - start
        opened = [cut for cut in (cut_one(root, rng) for _ in range(options.truncations)) if cut]
        assert not verify_store(root), "the store was not put back"
    for line in (*missed, *opened):
        print(line)
    found, refused = options.flips - len(missed), options.truncations - len(opened)
    print(f"{found} of {options.flips} flips found and named, {seconds / max(1, options.flips):.2f} s a whole verify")
    print(f"{refused} of {options.truncations} truncated files refused at opening")
    print(f"flips ratio={found / max(1, options.flips):.3f} goal=1.0")
    print(f"truncations ratio={refused / max(1, options.truncations):.3f} goal=1.0")


def make_store(folder: Path) -> Path:
    """Featurize and index a small cohort with everything that a store can hold."""
    cohort = write_cohort(folder / "cohort", patients=2, slides_per_patient=1, spots_per_side=5, n_genes=60)
    options = FeaturizeOptions(
        views=("20x", "5x"), patches="both", grid_um=(224.0, 448.0), min_tissue=0.2, tokens=("7x7",)
    )
    report = featurize(cohort, folder / "store", options=options)
    assert not report.failed, report.failed
    store = Store(folder / "store")
    store.build_index("stain-texture@20x")
    assert store.entries
    return store.path


def flip_one(root: Path, rng: np.random.Generator) -> str:
    """Flip one byte and verify; returns what was missed, if it was."""
    path = _draw_file(root, rng)
    spans = list(spans_of(path))
    names = sorted({name for name, _, _ in spans})
    name = names[rng.integers(len(names))]
    some = [(offset, size) for found, offset, size in spans if found == name and size]
    if not some:
        return flip_one(root, rng)
    offset, size = some[rng.integers(len(some))]
    place = offset + int(rng.integers(size))
    block = _block_of(path, name, place - offset)
    relative = path.relative_to(root).as_posix()
    with changed(path) as content:
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        problems = verify_store(root)
    named = (
        problem
        for problem in problems
        if problem.path == relative and name in (problem.dataset, *problem.what.replace("[", " ").split())
    )
    if any(block is None or problem.where.startswith(f"block {block} ") for problem in named):
        return ""
    return f"MISSED byte {place} of {relative}, dataset {name or '(all of it)'}, block {block}: {problems}"


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


@contextmanager
def changed(path: Path) -> Iterator[bytearray]:
    """The content of a file; afterwards the file is put back, with the time that it had."""
    content, stat = path.read_bytes(), path.stat()
    try:
        yield bytearray(content)
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def spans_of(path: Path) -> Iterator[Span]:
    """Where the bytes of every dataset of a file lie; a file that is no HDF5 is one dataset without a name."""
    import h5py

    if path.suffix not in (".h5", ".h5ad"):
        yield "", 0, path.stat().st_size
        return
    content = path.read_bytes()
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in names:
            dataset = file[name]
            if isinstance(dataset, h5py.Dataset):
                yield from ((name, offset, size) for offset, size in _stored(dataset))
                yield from ((name, offset, size) for offset, size in _texts(dataset, content))


def _stored(dataset: Any) -> Iterator[tuple[int, int]]:
    if dataset.chunks is None:
        if dataset.id.get_offset() is not None:
            yield dataset.id.get_offset(), dataset.id.get_storage_size()
        return
    for i in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(i)
        if dataset.chunks == dataset.shape:  # else the edge of a chunk is no data
            yield chunk.byte_offset, chunk.size


def _texts(dataset: Any, content: bytes) -> Iterator[tuple[int, int]]:
    """Strings of variable length, those that occur once in the file."""
    if dataset.dtype.kind != "O":
        return
    for text in np.ravel(dataset[()]):
        if text and content.count(text) == 1:
            yield content.index(text), len(text)


def _block_of(path: Path, name: str, place: int) -> int | None:
    if path.parts[-4] != "features":
        return None
    opened = read_features(path)
    row_bytes = opened.features[:1].nbytes
    return place // 4 if name == "crc32" else place // row_bytes // opened.header.block_rows


def _draw_file(root: Path, rng: np.random.Generator, extra: tuple[str, ...] = ()) -> Path:
    """A file of a kind drawn first, as there are many more files of features than of all others."""
    kinds = [sorted(root.glob(f"{folder}/**/*.h5*")) for folder in ("slides", "patches", "features", "expression")]
    kinds += [sorted(root.glob("indexes/*/*")), *([root / name] for name in extra)]
    drawn = [files for files in ([file for file in kind if file.name[0] != "."] for kind in kinds) if files]
    files = drawn[rng.integers(len(drawn))]
    return files[rng.integers(len(files))]


def _readers(root: Path, path: Path) -> list[Callable[[], Any]]:
    folder = path.relative_to(root).parts[0]
    key = (
        path.parent.name.removeprefix("spots.")
        if folder in ("features", "indexes")
        else _first(root / "features/spots")
    )
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
    return sum(len(list(root.glob(f"{kind}/**/[!.]*.h5*"))) for kind in ("slides", "patches", "features", "expression"))


if __name__ == "__main__":
    main()
