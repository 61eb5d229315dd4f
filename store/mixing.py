"""How slides and patients mix among the neighbours of an index: a batch effect seen, not hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Ints


@dataclass(frozen=True)
class Share:
    """Of the neighbours of the rows of a slide (or patient), how many lie on it themselves.

    Attributes
    ----------
    name
        Slide or patient.
    rows
        n_g, how many rows of the index are its.
    own
        Mean share of the k neighbours that are its own.
    expected
        (n_g - 1) / (n - 1): that share if neighbours were drawn at random among the other rows.
    """

    name: str
    rows: int
    own: float
    expected: float

    @property
    def separation(self) -> float:
        """(own - expected) / (1 - expected): 0 when mixed at random, 1 when it has no neighbour but itself."""
        return (self.own - self.expected) / (1 - self.expected) if self.expected < 1 else 0.0


@dataclass(frozen=True)
class Mixing:
    """Mixing of slides and patients among the `k` nearest neighbours of `queries` rows.

    Attributes
    ----------
    slide, patient
        Means over all rows: those of `slides` and `patients`, weighted by their rows.
    compared
        Separation of slides by whose statistics standardise the features, all on the same sample of rows, which is also
        what is searched; empty where there is one slide, or slides were added since.
    compared_rows
        How many rows the sample has.
    """

    k: int
    queries: int
    slide: Share
    patient: Share
    slides: tuple[Share, ...]
    patients: tuple[Share, ...]
    compared: dict[str, float] = field(default_factory=dict)
    compared_rows: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Mixing:
        """Read what `dataclasses.asdict` and JSON made of it."""
        return cls(
            k=values["k"],
            queries=values["queries"],
            slide=Share(**values["slide"]),
            patient=Share(**values["patient"]),
            slides=tuple(Share(**one) for one in values["slides"]),
            patients=tuple(Share(**one) for one in values["patients"]),
            compared=values.get("compared", {}),
            compared_rows=values.get("compared_rows", 0),
        )


def mixing(
    neighbours: Ints, queries: Ints, *, slide: Ints, slide_ids: Sequence[str], patient_ids: Sequence[str]
) -> Mixing:
    """Compare who the neighbours are with who they would be if slides did not matter.

    Parameters
    ----------
    neighbours
        (m, k) rows of the index, the query itself not among them; -1 where there are fewer.
    queries
        (m,) rows of the index, from every slide that is to be reported on.
    slide
        (n,) slide number of each row of the index.
    slide_ids, patient_ids
        (n_slides,) names.
    """
    names, patient_of = np.unique(np.array(patient_ids), return_inverse=True)
    patient = patient_of[slide]
    slides = _shares(neighbours, queries, slide, list(slide_ids))
    patients = _shares(neighbours, queries, patient, names.tolist())
    return Mixing(
        k=int(neighbours.shape[1]),
        queries=len(queries),
        slide=_mean("all slides", slides),
        patient=_mean("all patients", patients),
        slides=slides,
        patients=patients,
    )


def sample_rows(slide: Ints, n: int, *, least: int = 4, seed: int = 0) -> NDArray[np.int64]:
    """About n rows, sorted, from each slide in proportion to its rows but at least `least` where it has them."""
    rng = np.random.default_rng(seed)
    chosen = []
    for number in range(int(slide.max(initial=-1)) + 1):
        rows = np.flatnonzero(slide == number)
        wanted = min(len(rows), max(least, round(n * len(rows) / len(slide))))
        chosen.append(np.sort(rng.choice(rows, size=wanted, replace=False)))
    return np.concatenate([np.zeros(0, dtype=np.int64), *chosen])


def _shares(neighbours: Ints, queries: Ints, group: Ints, names: list[str]) -> tuple[Share, ...]:
    there = neighbours >= 0
    same = (group[np.maximum(neighbours, 0)] == group[queries][:, None]) & there
    asked = there.any(axis=1)
    share = same.sum(axis=1) / np.maximum(there.sum(axis=1), 1)  # (m,)
    rows = np.bincount(group, minlength=len(names))
    found = []
    for number, name in enumerate(names):
        mine = asked & (group[queries] == number)
        if mine.any():
            expected = (rows[number] - 1) / max(len(group) - 1, 1)
            found.append(Share(name, int(rows[number]), float(share[mine].mean()), float(expected)))
    return tuple(found)


def _mean(name: str, shares: tuple[Share, ...]) -> Share:
    rows = np.array([one.rows for one in shares], dtype=np.float64)
    weight = rows / max(rows.sum(), 1.0)
    own = sum(w * one.own for w, one in zip(weight, shares, strict=True))
    expected = sum(w * one.expected for w, one in zip(weight, shares, strict=True))
    return Share(name, int(rows.sum()), float(own), float(expected))
