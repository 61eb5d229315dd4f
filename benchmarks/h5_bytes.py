"""Where in an HDF5 file the bytes of its datasets lie, and what the whole file says; for benchmarks that change it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..store.files.schema import DAMAGE


@dataclass(frozen=True)
class Span:
    """Some bytes of a dataset.

    Attributes
    ----------
    dataset
        Its name; empty in a file that is no HDF5, which is one dataset without a name.
    offset, size
        Where in the file they lie.
    start
        Which bytes of the dataset they are, from its first; of a text, of the text alone.
    """

    dataset: str
    offset: int
    size: int
    start: int = 0


@contextmanager
def changed(path: Path) -> Iterator[bytearray]:
    """The content of a file; afterwards the file is put back, with the time that it had."""
    content, stat = path.read_bytes(), path.stat()
    try:
        yield bytearray(content)
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@contextmanager
def rotten(path: Path, place: int, *, flip: int) -> Iterator[None]:
    """A file with one byte changed as a failing disk changes it: size and time stay."""
    stat = path.stat()
    with changed(path) as content:
        content[place] ^= flip
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        yield


def spans_of(path: Path) -> Iterator[Span]:
    """Where the bytes of every dataset of a file lie, strings by their references and by their text."""
    import h5py

    if path.suffix not in (".h5", ".h5ad"):
        yield Span("", 0, path.stat().st_size)
        return
    content = path.read_bytes()
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in names:
            dataset = file[name]
            if isinstance(dataset, h5py.Dataset):
                yield from _stored(name, dataset)
                yield from _texts(name, dataset, content)


def outside(path: Path) -> NDArray[np.int64]:
    """Places of the bytes that belong to no dataset and are not zero: headers, attributes, heaps, names."""
    said = np.frombuffer(path.read_bytes(), dtype=np.uint8) != 0
    for span in spans_of(path):
        said[span.offset : span.offset + span.size] = False
    return np.flatnonzero(said)


def everything_in(path: Path) -> dict[str, str]:
    """All that h5py reads from a file, as text: names, attributes, types, shapes, values; and what it cannot read."""
    import h5py

    found: dict[str, str] = {}

    def add(name: str, item: Any) -> None:
        found[name] = repr(sorted((repr(key), repr(value)) for key, value in item.attrs.items()))
        if isinstance(item, h5py.Dataset):
            found[name] += f" {item.dtype} {item.shape} {np.asarray(item[()]).tolist()!r}"

    try:
        with h5py.File(path) as file:
            add("", file)
            file.visititems(add)
    except DAMAGE as error:
        found["error"] = repr(error)
    return found


def _stored(name: str, dataset: Any) -> Iterator[Span]:
    if dataset.chunks is None:
        if dataset.id.get_offset() is not None:
            yield Span(name, dataset.id.get_offset(), dataset.id.get_storage_size())
        return
    row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
    for i in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(i)
        if dataset.chunks[1:] != dataset.shape[1:]:
            continue
        rows = min(dataset.chunks[0], len(dataset) - chunk.chunk_offset[0])  # beyond the last row a chunk is no data
        size = chunk.size if dataset.compression else rows * row_bytes
        yield Span(name, chunk.byte_offset, size, chunk.chunk_offset[0] * row_bytes)


def _texts(name: str, dataset: Any, content: bytes) -> Iterator[Span]:
    """Strings of variable length, those that occur once in the file."""
    if dataset.dtype.kind != "O":
        return
    for text in np.ravel(dataset[()]):
        if text and content.count(text) == 1:
            yield Span(name, content.index(text), len(text))
