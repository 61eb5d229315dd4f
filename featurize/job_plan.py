"""What is frozen when a job starts, so that a resumed file is byte-identical to an undisturbed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from ..store.feature_file import BLOCK_ROWS
from ..store.journal import read_plan
from .targets import Target, ViewField, Wanted
from .visit import BLOCK_PX


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
class Pass:
    """Files that are written together, from one read of the pixels.

    Attributes
    ----------
    fields
        Each field with the files that are made from it.
    blocks_done
        Blocks that all of them have already.
    """

    plan: Plan
    fields: tuple[Wanted, ...]
    blocks_done: int


def plan_passes(wanted: Sequence[Wanted], today: Plan) -> tuple[Pass, ...]:
    """Group files that go on together: those of one plan that are equally far.

    Files of one killed pass differ by one block at most; that block is made again for those ahead.
    """
    groups: list[tuple[Plan, int, list[tuple[ViewField, Target]]]] = []
    for plan, done, field, target in sorted(_states(wanted, today), key=lambda state: state[1]):
        for known, begun, members in groups:
            if known == plan and done - begun <= 1:
                members.append((field, target))
                break
        else:
            groups.append((plan, done, [(field, target)]))
    return tuple(
        Pass(plan, tuple((one, tuple(t for f, t in members if f is one)) for one in _distinct(members)), begun)
        for plan, begun, members in groups
    )


def _states(wanted: Sequence[Wanted], today: Plan) -> list[tuple[Plan, int, ViewField, Target]]:
    """Plan and finished blocks of each file; those not begun get today's plan."""
    states = []
    for field, targets in wanted:
        for target in targets:
            plan, done = today, 0
            found = read_plan(target.path)
            if found is not None and found[1] and (frozen := today.resumed(found[0])) is not None:
                plan, done = frozen, found[1]
            states.append((plan, done, field, target))
    return states


def _distinct(members: Sequence[tuple[ViewField, Target]]) -> list[ViewField]:
    return list({id(field): field for field, _ in members}.values())
