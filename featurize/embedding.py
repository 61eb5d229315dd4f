"""Pixels through encoders into feature files: each field is read once per patch, whoever wants it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from ..store.arrays import Floats, Pixels
from ..store.feature_file import write_features
from .reading import Readable, read_patch
from .targets import ViewField

if TYPE_CHECKING:
    from .backbones.build import Encoder


def embed(
    slide: Readable,
    centers_px: Floats,
    fields: Sequence[ViewField],
    *,
    batch: int,
    readers: int,
    progress: Callable[[int], None],
) -> None:
    """Write the targets of all fields of one slide, rows in the order of the centres.

    Parameters
    ----------
    centers_px
        (n, 2) level-0 pixels.
    batch
        Patches per forward pass; batches start at multiples of it, whatever the number of readers.
    progress
        Called with the number of patches done.
    """
    n = len(centers_px)
    encoders = [target.encoder for field in fields for target in field.targets]
    with ExitStack() as stack, ThreadPoolExecutor(readers) as pool, _forward_threads(encoders):
        writers = [
            [
                (t.encoder, stack.enter_context(write_features(t.path, t.header, shape=(n, t.encoder.dim))))
                for t in field.targets
            ]
            for field in fields
        ]
        done = 0
        for pixels in _batches(pool, slide, centers_px, fields, batch=batch):
            for patches, takers in zip(pixels, writers, strict=True):
                for encoder, writer in takers:
                    writer.append(_encode(encoder, patches))
            done += len(pixels[0])
            progress(done)


@contextmanager
def _forward_threads(encoders: Sequence[Encoder]) -> Iterator[None]:
    """Run embedded encoders on one thread, and leave the other cores to the readers.

    They are many small operations, which two contending OpenMP threads make five times slower, not faster.
    """
    import torch

    before = torch.get_num_threads()
    if all(encoder.record.loader == "embedded" for encoder in encoders):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encode(encoder: Encoder, patches: Pixels) -> Floats:
    import torch

    batch = torch.from_numpy(patches).permute(0, 3, 1, 2)  # (b, h, w, 3) -> (b, 3, h, w)
    features: Floats = encoder.encode(batch).cpu().numpy()
    return features


def _batches(
    pool: ThreadPoolExecutor, slide: Readable, centers_px: Floats, fields: Sequence[ViewField], *, batch: int
) -> Iterator[list[Pixels]]:
    """Per batch, the pixels (b, side, side, 3) of each field; one batch is read ahead of the one in use."""

    def read(row: int) -> list[Pixels]:
        return [read_patch(slide, one.field, centers_px[row]) for one in fields]

    ahead: deque[list[Future[list[Pixels]]]] = deque()
    for start in range(0, len(centers_px), batch):
        ahead.append([pool.submit(read, row) for row in range(start, min(start + batch, len(centers_px)))])
        if len(ahead) == 2:
            yield _stack(ahead.popleft())
    while ahead:
        yield _stack(ahead.popleft())


def _stack(rows: list[Future[list[Pixels]]]) -> list[Pixels]:
    return [np.stack(field) for field in zip(*(row.result() for row in rows), strict=True)]
