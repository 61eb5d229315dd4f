"""From rows to steps: slides cut into parts, parts packed into steps, and every step made into a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.arrays import Ints
from ...store.neighbours import Neighbourhood
from .batch import Around, Batch
from .rows import RowData


def epoch_of(slide: Ints, rows: Ints, *, batch: int, at_least: int, generator: torch.Generator) -> Iterator[Ints]:
    """Rows of each step of an epoch.

    Every slide is cut at random into equal parts of at most `batch` rows; parts come in random order, and follow each
    other into one step until it has `at_least` rows.
    """
    parts: list[Ints] = []
    for one in np.unique(slide[rows]):
        here = rows[slide[rows] == one]
        order = torch.randperm(len(here), generator=generator).numpy()
        parts += np.array_split(here[order], math.ceil(len(here) / batch))
    step: list[Ints] = []
    for i in torch.randperm(len(parts), generator=generator).tolist():
        step.append(parts[i])
        if sum(map(len, step)) >= at_least:
            yield np.concatenate(step)
            step = []
    if step:
        yield np.concatenate(step)


def steps_in_epoch(slide: Ints, rows: Ints, *, batch: int, at_least: int) -> int:
    """Steps of an epoch; where parts are packed it can differ by a step from epoch to epoch, so this is the first's."""
    return sum(1 for _ in epoch_of(slide, rows, batch=batch, at_least=at_least, generator=torch.Generator()))


def make_batch(data: RowData, rows: Ints, *, usual_weight: float | None = None) -> Batch:
    """The batch of some rows.

    Parameters
    ----------
    usual_weight
        Weight of a step by which slides' shares are counted; None outside training.
    """
    device, reference = data.features.device, data.reference or data
    space = None if data.space is None else (data.space.index[rows], data.space.mask[rows])
    feature = None if data.feature is None else (data.feature.index[rows], data.feature.mask[rows])
    own, positions = _union(rows, space, None if data.reference is not None else feature)
    x = data.features.take(own)
    expression = _expression(data, own)
    if data.reference is not None and feature is not None:  # look-alikes lie in another table
        theirs, found = _union(np.empty(0, dtype=np.int64), feature)
        positions = (*positions, found[1] + len(own))
        x = tuple(torch.cat(pair) for pair in zip(x, reference.features.take(theirs), strict=True))
        seen = _expression(reference, theirs)
        if seen is not None:
            expression = torch.cat([seen.new_zeros(len(own), seen.shape[1]), seen])
    index = torch.from_numpy(rows).to(device)
    slides, local = np.unique(data.slide[rows], return_inverse=True)
    member = torch.from_numpy((local[None] == np.arange(len(slides))[:, None]).astype(np.float32)).to(device)
    weight = data.weight[index]
    after = iter(positions[1:])
    return Batch(
        x=x,
        rows=torch.from_numpy(positions[0]).to(device),
        member=member,
        share=member @ weight / (weight.sum() if usual_weight is None else usual_weight),
        weight=weight,
        place_um=torch.from_numpy(data.place_um[rows].astype(np.float32)).to(device),
        y=None if data.y is None else data.y[index],
        expression=expression,
        space=None if data.space is None else _around(data, data.space, rows, next(after), in_tissue=True),
        feature=None if data.feature is None else _around(data, data.feature, rows, next(after), in_tissue=False),
    )


def _union(
    rows: Ints, *found: tuple[NDArray[np.int32], NDArray[np.bool_]] | None
) -> tuple[Ints, tuple[NDArray[np.int64], ...]]:
    """All rows and neighbours, each once, and the places there of the rows and of each kind of neighbours."""
    given = [one for one in found if one is not None]
    if not given and len(rows):
        order = np.argsort(rows)
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.arange(len(rows))
        return rows[order].astype(np.int64), (places,)
    every = np.concatenate([rows, *(index[mask] for index, mask in given)]).astype(np.int64)
    # Marked and counted, not sorted: neighbours are several times the rows.
    seen = np.zeros(int(every.max(initial=-1)) + 1, dtype=np.bool_)
    seen[every] = True
    unique = np.flatnonzero(seen)
    number = np.cumsum(seen) - 1
    positions = [number[rows], *(np.where(mask, number[np.where(mask, index, unique[:1])], 0) for index, mask in given)]
    return unique, tuple(np.asarray(one, dtype=np.int64) for one in positions)


def _expression(data: RowData, rows: Ints) -> torch.Tensor | None:
    """Targets of rows where batches show them and they are known."""
    if not data.expression or data.shown is None:
        return None
    return data.shown[torch.from_numpy(rows).to(data.shown.device)]


def _around(data: RowData, found: Neighbourhood, rows: Ints, position: NDArray[np.int64], *, in_tissue: bool) -> Around:
    mask = found.mask[rows]
    offset = np.zeros((*mask.shape, 2), dtype=np.float32)
    if in_tissue:
        centre = data.place_um[rows if data.donor is None else data.donor[rows]]
        offset[mask] = (data.place_um[found.index[rows]] - centre[:, None])[mask]
    distance = np.where(mask, found.distance[rows], 0.0).astype(np.float32)
    device = data.features.device
    return Around(*(torch.from_numpy(part).to(device) for part in (position, mask, offset, distance)))
