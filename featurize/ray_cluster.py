"""A Ray cluster: how it is reached, and where on it there is room for workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..store.errors import CohortError, MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Room for one worker.

    Attributes
    ----------
    name
        Of the worker: node and number.
    node_id
        Ray's.
    """

    name: str
    node_id: str
    cpus: int
    gpus: int


def import_ray() -> ModuleType:
    """Ray itself.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        msg = "--engine ray needs Ray, which is not installed: pip install 'tissuary[ray]'"
        raise MissingDependencyError(msg) from error
    found: ModuleType = ray
    return found


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Be connected to a cluster: the one that is connected to already, that of `address`, or this machine alone.

    Raises
    ------
    CohortError
        If there is no cluster at `address`.
    MissingDependencyError
        If Ray is not installed.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # names of patients' slides are nobody else's business
    try:
        if address is None:
            ray.init("local", include_dashboard=False, log_to_driver=True)
        else:
            ray.init(address=address, log_to_driver=True)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        msg = (
            f"no Ray cluster can be reached at {address!r} ({type(error).__name__}: {error}): start one with "
            "`ray start --head`, give its --address, or leave it out to use this machine alone"
        )
        raise CohortError(msg) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def slots_of(nodes: Sequence[dict[str, Any]], *, device: str, threads: int | None) -> tuple[Slot, ...]:
    """Where workers fit: one on each GPU, or on each `threads` CPUs (on all CPUs of a node where None).

    Parameters
    ----------
    nodes
        As `ray.nodes()` tells.
    device
        "cpu", "cuda", or "auto" for GPUs if any node has one.
    """
    alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: (_host(node), node["NodeID"]))
    on_gpus = device == "cuda" or (device == "auto" and any(node["Resources"].get("GPU", 0) >= 1 for node in alive))
    slots = []
    for node in alive:
        cpus, gpus = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))
        count = gpus if on_gpus else cpus // (threads or max(1, cpus))
        each = cpus // max(1, count) if on_gpus else threads or cpus
        for number in range(count):
            name = f"{_host(node)}-{node['NodeID'][:6]}:{number}"
            slots.append(Slot(name, node["NodeID"], each, int(on_gpus)))
    return tuple(slots)


def _host(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node["NodeManagerAddress"])
