"""What a network sees of one step: rows of one or several slides, their neighbours, and what is known of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map


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
