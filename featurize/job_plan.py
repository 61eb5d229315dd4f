"""What is frozen when a job starts, so that a resumed file is byte-identical to an undisturbed one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from ..store.arrays import Floats, Ints
from ..store.files.features import BLOCK_ROWS
from ..store.files.journal import read_plan
from ..store.files.writer import FeatureJob, open_job
from .outputs import FeatureOutput, ViewField, Wanted
from .patches.read_blocks import BLOCK_PX, visiting_order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What shapes the last digits of a feature besides its fingerprint.

    Attributes
    ----------
    batch
        Patches per forward pass.
    threads
        Of torch, on the CPU.
    device
        "cpu", or the name of the GPU.
    torch
        Its version.
    compiled
        Whether networks are compiled.
    block_px
        Side of the blocks that fix the visiting order, level-0 pixels. It is the same for all views, so that a file
        that is made alone comes out as one that is made with others.
    """

    batch: int
    threads: int
    device: str
    torch: str
    compiled: bool
    block_px: float = BLOCK_PX

    @property
    def block_rows(self) -> int:
        """Patches that are written, and at most recomputed, together: whole batches, of the size of a checksum."""
        return self.batch * ceil(BLOCK_ROWS / self.batch)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def resumed(self, given: Mapping[str, Any]) -> Plan | None:
        """The plan that another run froze; None where this run, on its machine, cannot follow it."""
        try:
            plan = Plan(**given)
        except TypeError:  # fields of another version
            return None
        same = (plan.device, plan.torch, plan.compiled) == (self.device, self.torch, self.compiled)
        return plan if same else None


@dataclass(frozen=True)
class OpenFile:
    """A feature file in the making, under the plan it was begun with, and the order of visiting of that plan."""

    plan: Plan
    order: Ints
    field: ViewField
    target: FeatureOutput
    job: FeatureJob


@dataclass(frozen=True)
class Pass:
    """Files that are written together, from one read of the pixels.

    Attributes
    ----------
    order
        (n,) row at each visiting position.
    fields
        Each field with the files that are made from it.
    blocks_done
        Blocks that all of them have already.
    """

    plan: Plan
    order: Ints
    fields: tuple[tuple[ViewField, tuple[OpenFile, ...]], ...]
    blocks_done: int


def open_files(wanted: Sequence[Wanted], centers_px: Floats, today: Plan) -> list[OpenFile]:
    """Open all files that are wanted: those that another run left go on under its plan, the others get today's.

    Parameters
    ----------
    centers_px
        (n, 2) level-0 pixels, in the order of the patch set.
    """
    orders: dict[float, Ints] = {}
    with ExitStack() as stack:
        files = []
        for field, targets in wanted:
            for target in targets:
                plan = _plan_of(target, today)
                if plan.block_px not in orders:
                    orders[plan.block_px] = visiting_order(centers_px, block_px=plan.block_px)
                order = orders[plan.block_px]
                job = open_job(
                    target.path,
                    target.header,
                    shape=target.shape,
                    plan=plan.to_dict(),
                    block_rows=plan.block_rows,
                    order=order,
                )
                files.append(OpenFile(plan, order, field, target, stack.enter_context(job)))
        stack.pop_all()  # from here on the caller closes them
    return files


def _plan_of(target: FeatureOutput, today: Plan) -> Plan:
    found = read_plan(target.path)
    if found is None or not found[1]:
        return today
    frozen = today.resumed(found[0])
    if frozen is not None and frozen != today:
        log.warning(
            "%s goes on as it was begun, with batches of %d; delete its journal to begin anew",
            target.path,
            frozen.batch,
        )
    return frozen or today


def group_passes(files: Sequence[OpenFile]) -> tuple[Pass, ...]:
    """Group files that go on together: those of one plan that are equally far.

    Files of one killed pass differ by one block at most; that block is made again for those ahead.
    """
    groups: list[list[OpenFile]] = []
    for file in sorted(files, key=lambda file: file.job.blocks_done):
        for group in groups:
            if group[0].plan == file.plan and file.job.blocks_done - group[0].job.blocks_done <= 1:
                group.append(file)
                break
        else:
            groups.append([file])
    return tuple(
        Pass(
            group[0].plan,
            group[0].order,
            tuple((one, tuple(file for file in group if file.field is one)) for one in _distinct(group)),
            group[0].job.blocks_done,
        )
        for group in groups
    )


def _distinct(files: Sequence[OpenFile]) -> list[ViewField]:
    return list({id(file.field): file.field for file in files}.values())
