"""What HEST-1k says of a slide: `metadata/<id>.json`, and the row of its CSV."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...store.errors import CohortError
from ...store.patients import known_text, patient_name
from .access import reading

CSV = "HEST_v*.csv"


@dataclass(frozen=True)
class HestFacts:
    """What HEST-1k says of one slide.

    Attributes
    ----------
    patient
        As it names the patient; None where it does not.
    dataset
        Title of the study; names of patients are given within it.
    mpp
        um per pixel: `pixel_size_um_estimated`, which HEST itself goes by, else `pixel_size_um_embedded`.
    embedded_mpp
        `pixel_size_um_embedded`, of the image before HEST converted it. It is no claim on its own: more than half of
        those in HEST v1.1 differ from the estimate by more than 10 %.
    pitch_um
        `inter_spot_dist`.
    """

    patient: str | None = None
    dataset: str | None = None
    mpp: float | None = None
    embedded_mpp: float | None = None
    pitch_um: float | None = None


class HestMetadata:
    """The facts of every slide below a root; the JSON of a slide goes before its row in the CSV."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rows = _read_csv(root)

    def facts(self, slide_id: str) -> HestFacts:
        """What is said of one slide; nothing where HEST's metadata are not there.

        Raises
        ------
        CohortError
            If its JSON cannot be read, or a size in it is no positive number.
        """
        path = self._root / "metadata" / f"{slide_id}.json"
        said = dict(self._rows.get(slide_id, {}))
        with reading(path):
            text = path.read_bytes() if path.is_file() else None
        if text is not None:
            try:
                said |= dict(json.loads(text))
            except (ValueError, TypeError) as error:
                msg = f"{path} cannot be read as JSON ({error}): download it again"
                raise CohortError(msg) from error
        where = path if text is not None else self._root / CSV
        estimated, embedded = (_positive(said, f"pixel_size_um_{kind}", where) for kind in ("estimated", "embedded"))
        return HestFacts(
            patient_name(said.get("patient")),
            known_text(said.get("dataset_title")),
            estimated if estimated is not None else embedded,
            embedded,
            _positive(said, "inter_spot_dist", where),
        )


def _read_csv(root: Path) -> dict[str, dict[str, Any]]:
    """Rows by slide, of the newest CSV there is."""
    import polars

    with reading(root):
        files = sorted(root.glob(CSV))
    if not files:
        return {}
    try:
        table = polars.read_csv(files[-1], infer_schema=False)
        return {str(row["id"]): row for row in table.iter_rows(named=True)}
    except (polars.exceptions.PolarsError, OSError, KeyError) as error:
        msg = f"{files[-1]} cannot be read ({error}): wanted HEST's CSV with a column id; download it again"
        raise CohortError(msg) from error


def _positive(said: dict[str, Any], name: str, where: Path) -> float | None:
    text = known_text(said.get(name))
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        msg = f"{where}: {name} is {text!r}; wanted a positive number"
        raise CohortError(msg)
    return value
