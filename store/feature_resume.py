"""How the making of a feature file begins, or goes on from what a former job left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import Ints
from .atomic import remove_resumable, resumable_path
from .errors import StoreError
from .feature_file import FeatureHeader, read_features
from .feature_rows import FeatureRows, create_rows
from .journal import Block, Journal
from .precision import FP16

log = logging.getLogger(__name__)


def identity_of(header: FeatureHeader, shape: tuple[int, ...], *, block_rows: int, order: Ints) -> dict[str, Any]:
    """What a former job's rows must have been made for, that they may be kept."""
    return {
        **header.attributes(),
        "shape": list(shape),
        "visited_block_rows": block_rows,
        "order_sha256": hashlib.sha256(np.asarray(order, dtype="<i8").tobytes()).hexdigest(),
    }


def begin(path: Path, header: FeatureHeader, identity: Mapping[str, Any]) -> tuple[FeatureRows, Journal]:
    """Make a new file in fp16 and its journal; what a former job left is removed."""
    remove_resumable(path)
    rows = create_rows(partial_path(path, FP16), header, shape=tuple(identity["shape"]), dtype=FP16)
    return rows, Journal.create(path, identity)


def resume(path: Path, header: FeatureHeader, identity: Mapping[str, Any]) -> tuple[FeatureRows, Journal] | None:
    """What a former job left, if it is of the same identity and whole."""
    journal = Journal.open(path)
    if journal is None:
        return None
    other = sorted(name for name in identity if journal.identity.get(name) != identity[name])
    problem = f"other {', '.join(other)}" if other else ""
    partial = partial_path(path, dtype_after(journal.blocks))
    try:
        found = read_features(partial)
        if (found.header.attributes(), list(found.features.shape)) != (header.attributes(), identity["shape"]):
            problem = problem or "its attributes are not those of its journal"
    except StoreError as error:
        problem = problem or str(error)
    if problem:
        log.warning("%s starts from its first row; what an earlier job left of it cannot be used: %s", path, problem)
        journal.close()
        return None
    log.info("%s: %d blocks of a former job are there", path, len(journal.blocks))
    return FeatureRows(partial), journal


def dtype_after(blocks: list[Block]) -> np.dtype[Any]:
    """The dtype of the rows once these blocks are written."""
    return np.dtype(blocks[-1].dtype) if blocks else FP16


def partial_path(path: Path, dtype: np.dtype[Any]) -> Path:
    """Where rows lie beside the file to come, by their dtype."""
    return resumable_path(path, f"partial-f{dtype.itemsize}")
