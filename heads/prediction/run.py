"""A trained run on disk: a saved head, and beside it what it learnt on, to tell how far a spot lies from that."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import DamagedFileError
from ...store.files.atomic import atomic_path
from ..saving.save import WORDS
from ..saving.saved import SavedHead, load_head
from .blocks import context_of
from .familiarity import Familiarity

REFERENCE = "reference.safetensors"
REFERENCE_TYPE, REFERENCE_VERSION = "tissuary-reference", "1"


@dataclass(frozen=True)
class TrainedRun:
    """A run that was loaded.

    Attributes
    ----------
    saved
        The head.
    familiarity
        What it learnt on.
    gene_spread
        (g,) standard deviation of the training targets within their slides.
    id
        sha256 of `head.json`, which names the digest of the head's arrays: what every prediction carries.
    """

    saved: SavedHead
    familiarity: Familiarity
    gene_spread: NDArray[np.float32]
    id: str

    @property
    def context_um(self) -> float | None:
        """How far around a spot its prediction looks; None for its whole slide."""
        return context_of(self.saved.head)

    def shown_genes(self, count: int) -> tuple[str, ...]:
        """The genes that differ most between training spots, for maps."""
        order = np.lexsort((np.arange(len(self.gene_spread)), -self.gene_spread))
        return tuple(self.saved.panel[one] for one in order[:count])


def write_reference(folder: Path, familiarity: Familiarity, gene_spread: NDArray[np.float32]) -> None:
    """Write what a head learnt on beside the head that is saved in a folder."""
    from safetensors.numpy import save

    words = {
        "encoding-type": REFERENCE_TYPE,
        "encoding-version": REFERENCE_VERSION,
        "head_sha256": run_id(folder),
        **familiarity.words(),
    }
    arrays = {name: np.ascontiguousarray(one) for name, one in familiarity.arrays().items()}
    content = save({**arrays, "gene_spread": gene_spread}, metadata={"tissuary": json.dumps(words, sort_keys=True)})
    with atomic_path(folder / REFERENCE) as partial:
        partial.write_bytes(content)


def load_run(folder: Path, *, head_class: type | None = None, device: str | None = None) -> TrainedRun:
    """Load a run; nothing in its files is executed.

    Parameters
    ----------
    head_class
        The class of a head from outside this package.
    device
        Where it predicts, in place of the device that it was fitted with.

    Raises
    ------
    HeadError
        If the folder holds no saved head.
    DamagedFileError
        If files are damaged, missing, or do not belong together.
    """
    saved = load_head(folder, head_class=head_class, device=device)
    words, arrays = _read_reference(folder / REFERENCE)
    found = run_id(folder)
    if words.get("head_sha256") != found:
        msg = f"{folder}: {REFERENCE} is of another head than head.json (training was cut off?): train the head again"
        raise DamagedFileError(msg)
    return TrainedRun(saved, Familiarity.of(words, arrays), arrays["gene_spread"], found)


def run_id(folder: Path) -> str:
    """sha256 of `head.json`."""
    return hashlib.sha256((folder / WORDS).read_bytes()).hexdigest()


def _read_reference(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        msg = f"{path} does not exist: the head was saved without what it learnt on; make the run with `tissuary train`"
        raise DamagedFileError(msg)
    try:
        with safe_open(path, framework="np") as file:
            words = json.loads((file.metadata() or {})["tissuary"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError) as error:
        msg = f"{path}: cannot be read ({error}); train the head again"
        raise DamagedFileError(msg) from error
    kind = (words.get("encoding-type"), words.get("encoding-version"))
    if kind != (REFERENCE_TYPE, REFERENCE_VERSION):
        msg = f"{path} is {kind[0]} version {kind[1]}; this version of tissuary reads {REFERENCE_TYPE} 1"
        raise DamagedFileError(msg)
    return words, arrays
