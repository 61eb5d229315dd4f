"""The journal of an unfinished feature file: which blocks of rows are written, one JSON line each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .atomic import resumable_path, write_at

JOURNAL = "journal"
"""Ending of a journal's name; see `atomic.RESUMABLE`."""

_DTYPES = ("<f2", "<f4")


@dataclass(frozen=True)
class JournalBlock:
    """One written block of rows.

    Attributes
    ----------
    block
        Its place in the order of visiting, from 0.
    rows
        Number of rows.
    crc32
        Checksum of their stored bytes, in the order of visiting.
    dtype
        "<f2" or "<f4": of the file that it was written to. A later block of fp32 means that all rows were copied.
    """

    block: int
    rows: int
    crc32: int
    dtype: str


class Journal:
    """An opened journal.

    Only whole lines are added, after the rows that they speak of, and only whole lines are cut off. So at any moment
    it is true of the file beside it, unless the machine lost power; then the checksums tell.

    Attributes
    ----------
    identity
        What the rows depend on, from the first line.
    blocks
        The blocks written so far.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], blocks: list[JournalBlock]) -> None:
        self.identity, self.blocks = identity, blocks
        lines = [_line(identity), *(_line(asdict(block)) for block in blocks)]
        self._sizes = [len(line) for line in lines]
        self._descriptor = os.open(path, os.O_WRONLY)

    @classmethod
    def create(cls, path: Path, identity: Mapping[str, Any]) -> Journal:
        """Begin the journal of the feature file `path`."""
        journal = resumable_path(path, JOURNAL)
        journal.write_bytes(_line(identity))
        return cls(journal, identity, [])

    @classmethod
    def open(cls, path: Path) -> Journal | None:
        """Open the journal of the feature file `path`, or None where it has none that can be read.

        A line that was not finished, and what follows it, is cut off.
        """
        found = _read(path)
        if found is None:
            return None
        journal = cls(resumable_path(path, JOURNAL), *found)
        journal.cut(len(journal.blocks))
        return journal

    def add(self, block: JournalBlock) -> None:
        """Say that a block is written."""
        line = _line(asdict(block))
        # At its place, not at the end of the file: a line that a full disk cut short is written over.
        write_at(self._descriptor, line, sum(self._sizes))
        self._sizes.append(len(line))
        self.blocks.append(block)

    def cut(self, blocks: int) -> None:
        """Forget all but the first `blocks` blocks."""
        del self.blocks[blocks:], self._sizes[blocks + 1 :]
        os.ftruncate(self._descriptor, sum(self._sizes))

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_plan(path: Path) -> tuple[dict[str, Any], int] | None:
    """Plan and number of written blocks of an unfinished feature file, or None where there is none to go on from.

    Nothing is opened for writing, and no checksum is read.

    Parameters
    ----------
    path
        Of the feature file that is to come.
    """
    found = _read(path)
    if found is None:
        return None
    identity, blocks = found
    return json.loads(identity["plan"]), len(blocks)


def read_identity(path: Path) -> dict[str, Any] | None:
    """What the rows of an unfinished feature file depend on, as `Journal.identity`; None where it has no journal.

    Parameters
    ----------
    path
        Of the feature file that is to come.
    """
    found = _read(path)
    return None if found is None else found[0]


def _read(path: Path) -> tuple[dict[str, Any], list[JournalBlock]] | None:
    try:
        first, *lines = resumable_path(path, JOURNAL).read_bytes().split(b"\n")[:-1]
        identity = json.loads(first)
        json.loads(identity["plan"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if _line(identity) != first + b"\n":
        return None
    return identity, list(_blocks(lines))


def _blocks(lines: list[bytes]) -> Iterator[JournalBlock]:
    for i, line in enumerate(lines):
        try:
            block = JournalBlock(**json.loads(line))
        except (ValueError, TypeError):
            return
        if block.block != i or block.dtype not in _DTYPES or _line(asdict(block)) != line + b"\n":
            return
        yield block


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"
