"""The fingerprint: sha256 over what shapes the numbers, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .record import BackboneRecord

if TYPE_CHECKING:
    from torch import Tensor


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Sha256 over name, dtype, shape and bytes of all tensors, sorted by name.

    Taken from the loaded tensors, before any cast, so that `.bin` and `.safetensors` of the same weights agree.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_of(record: BackboneRecord, digest: str | None, *, view: str | None = None) -> str:
    """Fingerprint of a backbone, or of its features at one view.

    Precision is left out on purpose: features made in bf16 serve a head that runs in fp32. So are licence, hub id,
    file names and the key, which change no number.

    Parameters
    ----------
    digest
        `tensors_digest` of the weights; None where the algorithm has none.
    view
        Canonical name of the view (`112um-0.5`, `native`), with the layout where there is one.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    shaping = {
        "loader": record.loader,
        "architecture": record.architecture,
        "architecture_options": record.architecture_options,
        "version": record.version,
        "weights": digest,
        "transform": {
            "input_px": record.input_px,
            "crop_from_px": record.crop_from_px,
            "resize": record.resize,
            "mean": list(record.mean),
            "std": list(record.std),
        },
        "pooling": record.pooling,
        "prefix_tokens": record.prefix_tokens,
        "view": view,
    }
    canonical = json.dumps(shaping, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
