"""What a network sees of one step: rows of one or several slides, their neighbours, and what is known of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map

from ...store.arrays import Ints
from ...store.spatial.neighbourhood import Neighbourhood
from .rows import RowData


class Around(NamedTuple):
    """Neighbours of the b rows of a step.

    Attributes
    ----------
    position
        (b, k) places of the neighbours among the u rows of the step; 0 where masked.
    mask
        (b, k) True where there is a neighbour.
    offset_um
        (b, k, 2) position of the neighbour minus that of the row; 0 for look-alikes and where masked.
    distance
        (b, k) um in tissue, 1 - cosine for look-alikes; 0 where masked.
    """

    position: Tensor
    mask: Tensor
    offset_um: Tensor
    distance: Tensor


class Batch(NamedTuple):
    """One step of training or prediction.

    Attributes
    ----------
    x
        Per feature key (u, dim) or (u, tokens, dim): the rows of the step and all their neighbours, each once, so that
        a network projects a row once and gathers it by `Around.position`.
    rows
        (b,) places among the u of the rows that are predicted.
    member
        (s, b) 1.0 where a row belongs to a slide of the step, else 0.
    share
        (s,) what each slide counts in the loss.
    weight
        (b,) of the rows; 0 for padding.
    place_um
        (b, 2) positions of the rows on their slides.
    y
        (b, g) targets; None in prediction.
    expression
        (u, g) targets where they may be seen (training rows), else 0; None where the head does not ask for them.
    space, feature
        Neighbours in tissue, and look-alikes of other patients; None where the head has none.
    """

    x: tuple[Tensor, ...]
    rows: Tensor
    member: Tensor
    share: Tensor
    weight: Tensor
    place_um: Tensor
    y: Tensor | None = None
    expression: Tensor | None = None
    space: Around | None = None
    feature: Around | None = None

    @property
    def own(self) -> tuple[Tensor, ...]:
        """Features of the rows that are predicted, per key (b, dim) or (b, tokens, dim)."""
        return tuple(x[self.rows] for x in self.x)

    @property
    def same_slide(self) -> Tensor:
        """(b, b) True where two rows lie on one slide."""
        return (self.member.T @ self.member) > 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows with neighbours u, rows b, slides s."""
        return len(self.x[0]), len(self.rows), len(self.share)


def stacked(batches: list[Batch]) -> Batch:
    """Batches of several runs as one, every tensor with the run in front, padded to the largest.

    Padded rows have no weight, belong to no slide and are nobody's neighbours.
    """
    u, b, s = (max(sizes) for sizes in zip(*(batch.sizes for batch in batches), strict=True))
    padded = [_padded(batch, u, b, s) for batch in batches]
    out: Batch = tree_map(lambda *parts: None if parts[0] is None else torch.stack(parts), *padded)
    return out


def _padded(batch: Batch, u: int, b: int, s: int) -> Batch:
    def rows(x: Tensor, n: int) -> Tensor:
        return functional.pad(x, [0, 0] * (x.ndim - 1) + [0, n - len(x)])

    def around(one: Around | None) -> Around | None:
        return None if one is None else Around(*(rows(part, b) for part in one))

    member = functional.pad(batch.member, [0, b - batch.member.shape[1], 0, s - len(batch.member)])
    return Batch(
        x=tuple(rows(x, u) for x in batch.x),
        rows=rows(batch.rows, b),
        member=member,
        share=rows(batch.share, s),
        weight=rows(batch.weight, b),
        place_um=rows(batch.place_um, b),
        y=None if batch.y is None else rows(batch.y, b),
        expression=None if batch.expression is None else rows(batch.expression, u),
        space=around(batch.space),
        feature=around(batch.feature),
    )


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
