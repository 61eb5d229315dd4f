"""The slides of one job among several: the same cut in every job, whatever is done, and equal shares of work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...store.errors import CohortError

if TYPE_CHECKING:
    from ..sources.sample import Sample

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`, counted from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Read `i/n`.

    Raises
    ------
    CohortError
        If it is anything else, or i is not below n.
    """
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        msg = f"shard {text!r}: wanted i/n with i from 0 to n - 1, such as 0/4 (in Slurm, $SLURM_ARRAY_TASK_ID/4)"
        raise CohortError(msg)
    return Shard(int(match[1]), int(match[2]))


def image_bytes(image: Path) -> int:
    """What a slide takes on the disk, which stands for its cost: scanners compress glass to next to nothing.

    Nothing is opened, so that ten thousand slides are weighed in seconds. A slide of many files (a folder, or MIRAX
    with the folder beside it) counts with all of them; one that is not there costs nothing.
    """
    beside = image.with_suffix("")
    parts = [image] if image.is_file() else []
    for folder in {image, beside} if image.suffix.lower() == ".mrxs" else {image}:
        if folder.is_dir():
            parts += [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in parts)


def deal(names: Sequence[str], cost: Sequence[int], *, count: int) -> list[int]:
    """Deal named tasks to `count` jobs: the dearest first, each to the job that has least so far.

    It depends on names and costs alone, not on their order. No job has more than another by more than one task's cost
    (Graham, *Bounds on multiprocessing timing anomalies*, SIAM J. Appl. Math. 17, 1969).

    Returns
    -------
    list
        The job of each task.
    """
    load = [(0, 0, job) for job in range(count)]  # cost, tasks, job: what costs nothing is dealt by turns
    found = [0] * len(names)
    for task in sorted(range(len(names)), key=lambda task: (-cost[task], names[task])):
        least = min(load)
        found[task] = least[2]
        load[least[2]] = (least[0] + cost[task], least[1] + 1, least[2])
    return found


def shard_of(samples: Sequence[Sample], shard: Shard) -> tuple[Sample, ...]:
    """The samples of one share, in the cohort's order."""
    jobs = deal([one.slide_id for one in samples], [image_bytes(one.image) for one in samples], count=shard.count)
    return tuple(one for one, job in zip(samples, jobs, strict=True) if job == shard.index)


def dearest_first(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The samples in the order in which several workers take them, so that none is left with a large one at the end."""
    return tuple(sorted(samples, key=lambda one: (-image_bytes(one.image), one.slide_id)))
