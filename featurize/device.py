"""Pixels to a GPU and results back, beside the arithmetic: copies run on streams of their own, from pinned memory.

On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..store.arrays import Floats, Pixels


class Uploader:
    """Moves batches to a device and results back, without the device waiting for either.

    Copies of batch i + 1 and of the results of batch i overlap the forward pass if the caller takes results one batch
    late::

        waiting = None
        for pixels in batches:
            result = uploader.download(encoder.encode(uploader.upload(pixels).permute(0, 3, 1, 2)))
            if waiting is not None:
                write(waiting())
            waiting = result

    Pinned memory comes from torch's own allocator, which reuses a block only after the copies from or to it are done:
    two or three blocks serve a whole run.

    Parameters
    ----------
    device
        "cpu", "cuda" or "cuda:1"; the encoder computes on its current stream.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._streams = None
        if self.device.type == "cuda":
            # One each way: a copy back waits for its forward pass, and must not hold up the next batch's copy.
            self._streams = _new_stream(self.device), _new_stream(self.device)

    def upload(self, batch: Pixels) -> Tensor:
        """Copy a batch to the device.

        Parameters
        ----------
        batch
            uint8 of any shape, writable; on a GPU it may be changed as soon as this returns, on a CPU its memory is
            shared.

        Returns
        -------
        Tensor
            The same on the device. Work that the caller's current stream does with it from now on waits for the copy;
            the caller does not.
        """
        if self._streams is None:
            return torch.from_numpy(batch)
        pinned = torch.from_numpy(batch).pin_memory()
        computing, copying = torch.cuda.current_stream(self.device), self._streams[0]
        with torch.cuda.stream(copying):
            moved = pinned.to(self.device, non_blocking=True)
        computing.wait_stream(copying)
        moved.record_stream(computing)  # allocated for the copying stream: not to be reused before it was computed with
        return moved

    def download(self, result: Tensor) -> Callable[[], Floats]:
        """Start to copy a result back.

        Returns
        -------
        Callable
            Called, it waits for this result alone, and gives it as an array.
        """
        if self._streams is None:
            return result.numpy
        returning = self._streams[1]
        returning.wait_stream(torch.cuda.current_stream(self.device))
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        with torch.cuda.stream(returning):
            host.copy_(result, non_blocking=True)
            done = returning.record_event()
        result.record_stream(returning)

        def wait() -> Floats:
            done.synchronize()
            return np.asarray(host.numpy())

        return wait


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
