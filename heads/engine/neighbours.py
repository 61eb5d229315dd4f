"""Which rows a network attends to: neighbours in tissue, look-alikes among training rows of other patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...store.arrays import Ints, Strings
from ...store.errors import HeadError
from ...store.search.exact import nearest_in_features
from ...store.spatial.neighbourhood import Neighbourhood
from ...store.table import Table

NEIGHBOURS = ("off", "space", "feature", "both")


@dataclass(frozen=True)
class NeighbourRule:
    """How neighbours are looked for.

    Attributes
    ----------
    edges_um, per_ring
        Rings around a spot, and most neighbours in each: the same tissue on spots and on a dense grid.
    nearest
        Where not 0, that many nearest spots in place of rings, the row itself first.
    look_alikes
        Neighbours in feature space, of largest cosine over all features side by side.
    shuffled
        Whether every row gets the neighbours of another row of its slide: an ablation, in training and prediction.
    """

    edges_um: tuple[float, ...] = (0.0, 300.0, 600.0)
    per_ring: int = 8
    nearest: int = 0
    look_alikes: int = 8
    shuffled: bool = False


def kinds_of(neighbours: str) -> tuple[bool, bool]:
    """Whether neighbours in tissue, and look-alikes, are wanted.

    Raises
    ------
    HeadError
        If there is no such choice.
    """
    if neighbours not in NEIGHBOURS:
        msg = f"neighbours={neighbours!r}: choose {', '.join(NEIGHBOURS)}"
        raise HeadError(msg)
    return neighbours in ("space", "both"), neighbours in ("feature", "both")


def in_tissue(table: Table, rule: NeighbourRule, *, seed: int) -> tuple[Neighbourhood, Ints | None]:
    """Neighbours of every row on its own slide, as rows of the table; and where shuffled the row they belong to."""
    places = table.places
    if rule.nearest:
        found = places.nearest(rule.nearest - 1, self_included=False)
        own = Neighbourhood.where(
            np.ones((len(table), 1), dtype=np.bool_), np.arange(len(table))[:, None], np.zeros((len(table), 1))
        )
        found = Neighbourhood(
            *(np.concatenate(parts, axis=1) for parts in zip(_parts(own), _parts(found), strict=True))
        )
    else:
        found = places.rings(rule.edges_um, rule.per_ring)
    return shuffled_within(found, table.slide, seed=seed) if rule.shuffled else (found, None)


def look_alikes(
    table: Table,
    rule: NeighbourRule,
    *,
    train: Ints,
    vectors: np.ndarray,
    queries: Table | None = None,
    query_vectors: np.ndarray | None = None,
    seed: int,
) -> Neighbourhood:
    """Training rows that look like each row, never of its own patient (nor of its slide, where there is one patient).

    Parameters
    ----------
    table
        Training table.
    train
        Rows of it that may be neighbours.
    vectors
        (n, dim) of all its rows, compared by cosine.
    queries, query_vectors
        Rows that look for neighbours; those of `table` where not given.

    Returns
    -------
    Neighbourhood
        Rows of `table`.
    """
    who = apart(table, train)
    asked, asking = (table, vectors) if queries is None else (queries, query_vectors)
    assert asking is not None
    found = nearest_in_features(
        vectors[train],
        rule.look_alikes,
        group=groups_of(table, who)[train],
        queries=asking,
        query_group=groups_of(asked, who),
    )
    kept = Neighbourhood.where(found.mask, train[found.index], found.distance)
    return shuffled_within(kept, asked.slide, seed=seed)[0] if rule.shuffled else kept


def apart(table: Table, train: Ints) -> str:
    """What look-alikes never share with their query: "patient", or "slide" where the rows have one patient only."""
    return "patient" if len({table.patient_ids[one] for one in np.unique(table.slide[train])}) > 1 else "slide"


def groups_of(table: Table, who: str) -> Strings:
    """(n,) patient or slide of each row."""
    return np.array(table.patient_ids if who == "patient" else table.slide_ids, dtype=np.str_)[table.slide]


def shuffled_within(found: Neighbourhood, slide: Ints, *, seed: int) -> tuple[Neighbourhood, Ints]:
    """Every row gets what another row of its slide had; and (n,) which row that is."""
    rng, order = np.random.default_rng(seed), np.arange(len(slide))
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        order[rows] = rng.permutation(rows)
    return Neighbourhood(*(part[order] for part in _parts(found))), order


def _parts(found: Neighbourhood) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return found.index, found.mask, found.distance
