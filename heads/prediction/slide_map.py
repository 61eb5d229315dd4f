"""What pictures and QuPath are given of a written prediction: places, some genes, how far the spots lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Pixels, Strings
from ...store.errors import HeadError, StoreError
from ...store.schema import DAMAGE
from .prediction_file import PREDICTION_TYPE, STEP
from .shapes import Shape


@dataclass(frozen=True)
class SlideMap:
    """Some genes of one prediction.

    Attributes
    ----------
    center_px
        (n, 2) level-0 pixels, x then y.
    values
        (n,) by gene, in the units of the target.
    distance, unfamiliar, flagged
        (n,) of each row; see `Familiarity`.
    target
        What is predicted, such as `log1p-cp10k`.
    identity
        What the values depend on, as JSON.
    thumbnail
        (h, w, 3) of the whole slide, or None.
    """

    slide_id: str
    run_id: str
    head: str
    target: str
    identity: str
    width_px: int
    height_px: int
    mpp: float
    shape: Shape
    barcode: Strings
    center_px: Floats
    values: dict[str, NDArray[np.float32]]
    distance: NDArray[np.float32]
    unfamiliar: NDArray[np.float32]
    flagged: Bools
    thumbnail: Pixels | None

    @property
    def center_um(self) -> Floats:
        """(n, 2) positions."""
        return np.asarray(self.center_px * self.mpp)


def read_slide_map(path: Path, genes: Sequence[str]) -> SlideMap:
    """Read some genes of a prediction.

    Raises
    ------
    HeadError
        If a gene was not predicted.
    StoreError
        If the file is damaged, or no prediction.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _read(file, path, genes)
    except DAMAGE as error:
        if isinstance(error, StoreError | HeadError):
            raise
        msg = f"{path} cannot be read ({error}): delete it and predict the slide anew"
        raise StoreError(msg) from error


def _read(file: Any, path: Path, genes: Sequence[str]) -> SlideMap:
    about = file["uns/tissuary"]
    if _word(about, "encoding-type") != PREDICTION_TYPE:
        msg = f"{path} is no prediction of tissuary"
        raise StoreError(msg)
    panel = list(file["var"][file["var"].attrs["_index"]].asstr()[()])
    missing = [gene for gene in genes if gene not in panel]
    if missing:
        msg = f"{path} has no genes {', '.join(missing)}; it has {len(panel)}, such as {', '.join(panel[:5])}"
        raise HeadError(msg)
    slide_id = _word(about, "slide_id")
    values, columns = file["X"], [panel.index(gene) for gene in genes]
    picked = [np.empty((0, len(columns)), np.float32)]
    picked += [values[start : start + STEP][:, columns] for start in range(0, len(values), STEP)]
    picture = file.get(f"uns/spatial/{slide_id}/images/hires")
    return SlideMap(
        slide_id=slide_id,
        run_id=_word(about["run"], "id"),
        head=_word(about["run"], "head"),
        target=_word(about["run"], "target"),
        identity=_word(about, "identity"),
        width_px=int(about["width"][()]),
        height_px=int(about["height"][()]),
        mpp=float(about["mpp"][()]),
        shape=Shape(_word(about, "shape"), float(about["side_um"][()])),
        barcode=np.asarray(file["obs"][file["obs"].attrs["_index"]].asstr()[()], dtype=np.str_),
        center_px=file["obsm/spatial"][()],
        values=dict(zip(genes, np.concatenate(picked).T, strict=True)),
        distance=file["obs/distance"][()],
        unfamiliar=file["obs/unfamiliar"][()],
        flagged=file["obs/flagged"][()].astype(np.bool_),
        thumbnail=None if picture is None else picture[()],
    )


def _word(group: Any, name: str) -> str:
    return str(group[name].asstr()[()])
