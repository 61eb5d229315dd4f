"""How many patches a forward pass takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch

from .backbones.encoder import Encoder

ON_CPU = 16
"""Patches of a forward pass on a CPU: larger ones fall out of its caches.

Patches/s in fp32, batches of 8, 16, 32, 64 (2-core Xeon, AVX-512, under other load, best of four passes):

- ViT-S/16: one thread 11.0, 11.0, 10.7, 9.3; two threads 13.2, 17.7, 14.7, 12.1.
- ResNet-50: one thread 9.6, 8.9, 9.0, 8.1; two threads 12.8, 12.7, 15.3, 10.6.
"""

LARGEST = 512
"""On a GPU; beyond it nothing is gained."""

SHARE = 0.6
"""Of the free memory: what a short trial does not see (fragments, several encoders at once) has the rest."""

TRIAL = (8, 16)
"""Patches of the two trials whose peaks are extrapolated."""

_log = logging.getLogger(__name__)


def automatic_batch(encoders: Iterable[Encoder], *, device: str) -> int:
    """Choose the number of patches of a forward pass.

    On a CPU it is `ON_CPU`. On a GPU it is the largest power of two up to `LARGEST` whose memory, extrapolated from
    two small forward passes, stays below `SHARE` of what is free; the smallest over all encoders, which share batches.

    Parameters
    ----------
    encoders
        On `device`.
    """
    if torch.device(device).type == "cpu":
        return ON_CPU
    return min((_largest_batch(encoder, torch.device(device)) for encoder in encoders), default=LARGEST)


def _largest_batch(encoder: Encoder, device: torch.device) -> int:
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0]
    peaks = []
    for size in TRIAL:
        try:
            peaks.append(_peak_bytes(encoder, size, device) - held)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            fits = TRIAL[0] if peaks else 1
            _log.warning("backbone %s: %d patches do not fit the GPU, batches of %d", encoder.record.key, size, fits)
            return fits
    return fitting_batch(peaks[0], peaks[1], free=free)


def fitting_batch(small: int, large: int, *, free: int) -> int:
    """Extrapolate the peaks of both trials, in bytes, to the largest power of two that fits: 1 to `LARGEST`."""
    each = max(1.0, (large - small) / (TRIAL[1] - TRIAL[0]))
    fixed = max(0.0, small - each * TRIAL[0])
    batch = LARGEST
    while batch > 1 and fixed + each * batch > SHARE * free:
        batch //= 2
    return batch


def _peak_bytes(encoder: Encoder, size: int, device: torch.device) -> int:
    side = encoder.record.input_px
    patches = torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device)
    encoder.encode(patches)  # once before: libraries allocate their workspaces on first use
    torch.cuda.reset_peak_memory_stats(device)
    encoder.encode(patches)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)
