"""How far a spot lies from everything that a head learnt on: where its map is not to be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import FingerprintError, HeadError
from ...store.files.column import FeatureColumn, standardise
from ...store.search.exact import flat_index, search_exact
from ...store.search.flat import FlatIndex, Groups
from ...store.table import Table

MOST_ROWS = 20_000
"""Training rows that are kept."""

MOST_ASKED = 4_000
"""Of these, as many tell how far training rows lie from each other."""

NEAREST = 5
"""Rows over whose distances is averaged, so that one odd training row does not make a region familiar."""

FLAGGED = 0.99
"""Share of training rows that lie nearer, above which a spot is flagged."""

BLOCK = 4096


@dataclass(frozen=True)
class NearestRows:
    """Rows and an index by which those of least Euclidean distance are found.

    The index holds (b, -|b|^2 / 2) and is asked for (x, 1): the largest inner product is the least distance.

    Attributes
    ----------
    base
        (m, d) float32, divided by the root of the number of features that vary.
    """

    base: NDArray[np.float32]
    index: FlatIndex
    live: int

    @classmethod
    def over(cls, rows: NDArray[np.float32], *, live: int, device: str = "cpu") -> NearestRows:
        """Make the index of rows (m, d), of whose features `live` vary."""
        base = rows / np.float32(np.sqrt(max(live, 1)))
        half = -0.5 * np.einsum("md,md->m", base, base, dtype=np.float64)
        longer = np.concatenate([base, half[:, None].astype(np.float32)], axis=1)
        longest = float(np.sqrt(np.einsum("md,md->m", longer, longer, dtype=np.float64).max(initial=1.0)))
        return cls(base, flat_index(longer, longest=longest, device=device), live)

    def distance_of(self, scaled: Table, rows: Ints) -> NDArray[np.float32]:
        """Distance (m,) of some rows of a table of `Familiarity.scaled`."""
        out = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            here = slice(start, start + BLOCK)
            # Queries are rounded as the kept rows are, or a copy of one would not lie at distance 0.
            out[here] = self.distance(_singles(_halves(scaled.features(rows=rows[here]))))
        return out

    def distance(self, asked: NDArray[np.float32], groups: Groups | None = None) -> NDArray[np.float32]:
        """Mean distance (m,) of rows to the nearest, of other groups; NaN where there are none."""
        asked = asked / np.float32(np.sqrt(max(self.live, 1)))
        ones = np.ones((len(asked), 1), dtype=np.float32)
        _, found = search_exact(self.index, np.concatenate([asked, ones], axis=1), NEAREST, groups=groups)
        total, count = np.zeros(len(asked)), (found >= 0).sum(axis=1)
        for nearest in found.T:
            step = asked - self.base[np.maximum(nearest, 0)]
            away = np.sqrt(np.einsum("md,md->m", step, step, dtype=np.float64))
            total += np.where(nearest >= 0, away, 0.0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


@dataclass(frozen=True)
class Familiarity:
    """Training rows to compare with, and how far they lie from each other.

    Features of all views lie side by side, z-scored with the mean and deviation of the training cohort: not of each
    slide, so that another scanner or stain shows. The distance is the root mean square difference over the features
    that vary, in training standard deviations, averaged over the nearest training rows. It is not a cosine: what is
    foreign lies far out in directions that training rows know too, which only lengths tell. (Sections of one cohort
    against a slide of another organ and scanner: 0 and 100 % flagged by this distance, 0 and 7 % by the cosine.)

    Attributes
    ----------
    keys, fingerprints
        Of the features, in their order.
    shift, scale
        (d,) float32; a row is `(x - shift) * scale`.
    rows
        (m, d) float16 training rows, so scaled.
    usual
        (c,) float32, sorted: distances of training rows to those of other groups.
    apart
        What these groups are: "patient", "slide", or "quarter of the slide" where there is one slide.
    """

    keys: tuple[str, ...]
    fingerprints: tuple[str, ...]
    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    rows: NDArray[np.float16]
    usual: NDArray[np.float32]
    apart: str

    @classmethod
    def fit(cls, table: Table, *, seed: int = 0) -> Familiarity:
        """Learn from training rows.

        Parameters
        ----------
        table
            With any standardisation, which is taken off.
        seed
            Of the rows that are kept where there are more than `MOST_ROWS`.
        """
        columns = {key: standardise(_raw(column), within="cohort") for key, column in table.columns.items()}
        whole = replace(table, columns=columns)
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.permutation(len(table))[:MOST_ROWS])
        rows = _halves(whole.features(rows=kept))
        group, apart = _groups(table)
        asked = np.sort(rng.permutation(len(kept))[:MOST_ASKED])
        scale = np.concatenate([_first(column.scale) for column in columns.values()])
        search = NearestRows.over(_singles(rows), live=int((scale > 0).sum()))
        usual = search.distance(_singles(rows[asked]), Groups(group[kept], group[kept][asked]))
        return cls(
            keys=tuple(columns),
            fingerprints=tuple(column.fingerprint for column in columns.values()),
            shift=np.concatenate([_first(column.shift) for column in columns.values()]),
            scale=scale,
            rows=rows,
            usual=np.sort(usual[np.isfinite(usual)]),
            apart=apart,
        )

    def scaled(self, table: Table) -> Table:
        """A table of other slides, its features scaled as the training rows.

        Raises
        ------
        HeadError
            If a feature key is missing, or of another length.
        FingerprintError
            If features were made by another encoder than those of training.
        """
        columns: dict[str, FeatureColumn] = {}
        start, n = 0, len(table.slide_ids)
        for key, fingerprint in zip(self.keys, self.fingerprints, strict=True):
            column = _checked(table.columns, key, fingerprint)
            part = slice(start, start + column.dim)
            shift, scale = (np.tile(one[part], (n, 1)) for one in (self.shift, self.scale))
            columns[key] = replace(_raw(column), shift=shift, scale=scale)
            start += column.dim
        if start != len(self.shift):
            msg = f"features of {start} numbers a row, this run learnt on {len(self.shift)}: featurize the slides again"
            raise HeadError(msg)
        return replace(table, columns=columns)

    def opened(self, *, device: str = "cpu") -> NearestRows:
        """The kept rows, ready to be searched on "cpu", "cuda" or "auto"."""
        return NearestRows.over(_singles(self.rows), live=int((self.scale > 0).sum()), device=device)

    def unfamiliar(self, distance: Floats) -> NDArray[np.float32]:
        """Share (m,) of training rows that lie nearer to other patients than each spot does to the cohort."""
        if not len(self.usual):
            return np.full(len(distance), np.nan, dtype=np.float32)
        return (np.searchsorted(self.usual, distance, side="left") / len(self.usual)).astype(np.float32)

    @property
    def flagged_from(self) -> float:
        """Distance above which a row is flagged; NaN where nothing is known of usual ones."""
        place = math.floor(FLAGGED * len(self.usual))
        return float(self.usual[place]) if len(self.usual) else math.nan

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept on disk, beside `words`."""
        return {"shift": self.shift, "scale": self.scale, "rows": self.rows, "usual": self.usual}

    def words(self) -> dict[str, Any]:
        """What is said of the arrays."""
        return {"keys": list(self.keys), "fingerprints": list(self.fingerprints), "apart": self.apart}

    @classmethod
    def of(cls, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Familiarity:
        """From what was kept."""
        return cls(
            keys=tuple(words["keys"]),
            fingerprints=tuple(words["fingerprints"]),
            apart=str(words["apart"]),
            **{name: arrays[name] for name in ("shift", "scale", "rows", "usual")},
        )


def _groups(table: Table) -> tuple[Ints, str]:
    """Group (n,) of each row, the coarsest of which there are several, and what groups are."""
    for names, apart in ((table.patient_ids, "patient"), (table.slide_ids, "slide")):
        number = np.unique(names, return_inverse=True)[1][table.slide]
        if len(np.unique(number)) > 1:
            return number, apart
    beyond = table.center_um > np.median(table.center_um, axis=0)
    return beyond[:, 0] + 2 * beyond[:, 1], "quarter of the slide"


def _halves(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Rows as float16, those of huge z-scores cut off where it ends."""
    largest = np.float32(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype(np.float16)


def _singles(values: NDArray[np.float16]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def _raw(column: FeatureColumn) -> FeatureColumn:
    return replace(column, shift=None, scale=None)


def _first(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Of the first slide: those of a cohort are alike."""
    assert values is not None
    return np.array(values[0], dtype=np.float32)


def _checked(columns: Mapping[str, FeatureColumn], key: str, fingerprint: str) -> FeatureColumn:
    if key not in columns:
        msg = f"this run learnt on {key}, the table has {', '.join(columns) or 'none'}: featurize the slides with it"
        raise HeadError(msg)
    if columns[key].fingerprint != fingerprint:
        msg = (
            f"{key} has fingerprint {columns[key].fingerprint[:12]}, this run learnt on {fingerprint[:12]}: featurize "
            "the slides with the encoder of training, or train again on these features"
        )
        raise FingerprintError(msg)
    return columns[key]
