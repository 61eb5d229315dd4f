"""Cells of a comparison on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.atomic import atomic_path
from ...store.errors import plain_reason
from ...store.feature_column import FeatureColumn
from ...store.table import Table

log = logging.getLogger(__name__)

VERSIONS = ("torch", "numpy", "scipy", "scikit-learn", "scanpy", "anndata")
ROWS = 8192
"""Rows digested together."""

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Trained:
    """What training a head on a fold gave: all that a record needs beside the scores.

    Attributes
    ----------
    prediction
        (n_test, n_panel) float32, the slide's offset put back.
    """

    prediction: NDArray[np.float32]
    options: dict[str, Any]
    chosen: dict[str, Any]
    parameters: int
    fit_seconds: float
    fit_cpu_seconds: float
    predict_seconds: float


class CellFolder:
    """Trained cells by what they were trained from; a folder of files that may be deleted at any time.

    A file's name is a digest over everything that shapes a prediction: head and mode, seed, protocol, the numbers of
    the fold as heads get them, the code of heads and store, the versions of the libraries. Whatever changes makes
    another name.

    Parameters
    ----------
    folder
        Made when a cell is saved; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.taken = 0

    @property
    def keeps(self) -> bool:
        """Whether cells are kept at all."""
        return self._folder is not None

    def load(self, identity: Mapping[str, Any]) -> Trained | None:
        """A cell that was trained before, or None."""
        path = self._path(identity)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                prediction, words = file["prediction"], json.loads(str(file["words"]))
            trained = Trained(prediction=prediction, **words)
        except (*DAMAGED, TypeError) as error:
            log.warning("%s is damaged (%s): this cell is trained again", path, plain_reason(error))
            return None
        self.taken += 1
        return trained

    def save(self, identity: Mapping[str, Any], trained: Trained) -> None:
        """Keep a cell, whole or not at all."""
        path = self._path(identity)
        if path is None:
            return
        words = {name: value for name, value in asdict(trained).items() if name != "prediction"}
        buffer = io.BytesIO()
        np.savez(buffer, prediction=trained.prediction, words=np.array(json.dumps(words, default=_plain)))
        with atomic_path(path) as partial:
            partial.write_bytes(buffer.getvalue())

    def _path(self, identity: Mapping[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        text = json.dumps(identity, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def _plain(value: object) -> object:
    """Numbers of numpy as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    msg = f"a head chose a {type(value).__name__}; wanted numbers and words"
    raise TypeError(msg)


def prepared_digest(train: Table, test: Table, *others: NDArray[Any]) -> str:
    """Digest of the numbers that heads of one fold get, tokens apart: features, targets, weights, offsets, genes."""
    digest = hashlib.sha256(json.dumps([train.panel, *map(list, (train.columns, train.control_columns))]).encode())
    for table in (train, test):
        _update_columns(digest, table, (*table.columns.values(), *table.control_columns.values()))
        arrays = (table.targets, table.target_offset, table.weights, table.array, table.center_um, table.slide)
        for array in arrays:
            _update(digest, array)
    for other in others:
        _update(digest, other)
    return digest.hexdigest()


def tokens_digest(train: Table, test: Table) -> str:
    """Digest of the tokens that heads of one fold may read."""
    digest = hashlib.sha256(json.dumps(list(train.token_columns)).encode())
    for table in (train, test):
        _update_columns(digest, table, tuple(table.token_columns.values()))
    return digest.hexdigest()


def _update_columns(digest: Any, table: Table, columns: Sequence[FeatureColumn]) -> None:
    """Features as heads get them, some rows at a time: tokens of a cohort need not fit into memory twice."""
    for column in columns:
        for start in range(0, len(table), ROWS):
            some = slice(start, start + ROWS)
            _update(digest, column.gather(table.slide[some], table.row[some]))
        _update(digest, column.shift)
        _update(digest, column.scale)


def _update(digest: Any, part: NDArray[Any] | None) -> None:
    if part is not None:
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)


@cache
def code_digest() -> str:
    """Digest of the code of heads and store, and of the versions of the libraries under them, as this process began."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps({name: version(name) for name in VERSIONS}).encode())
    for path in sorted(path for room in ("heads", "store") for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
