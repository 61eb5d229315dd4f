"""Where the slides of a run are embedded: here, by a process for each device, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .options import RAY, Progress
from .shards import dearest_first

if TYPE_CHECKING:
    from .cohort import Sample
    from .crew import Crew, Post
    from .dispatch import Dispatched


def embed_elsewhere(samples: Sequence[Sample], post: Post, *, progress: Progress) -> Dispatched:
    """Embed slides by workers in other processes: on the devices named, or on a Ray cluster.

    Raises
    ------
    TissuaryError
        If no worker can begin.
    """
    from .dispatch import Dispatch

    with _crew(post) as crew:
        return Dispatch([one.slide_id for one in dearest_first(samples)], crew, progress=progress).run()


@contextmanager
def _crew(post: Post) -> Iterator[Crew]:
    if post.options.engine == RAY:
        from .ray_cluster import connected
        from .ray_engine import RayCrew

        with connected(post.options.address) as ray:
            on_ray = RayCrew(ray, post)
            try:
                yield on_ray
            finally:
                on_ray.close()
        return
    from .device_pool import DevicePool, posts_of

    pool = DevicePool(posts_of(post))
    try:
        yield pool
    finally:
        pool.close()
