"""The encoder: uint8 patches in, embeddings out, resized and normalised on the device."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...store.errors import BackboneError
from .fingerprint import fingerprint_of
from .record import BackboneRecord


class Embedding(Protocol):
    """What turns normalised images into numbers."""

    def __call__(self, x: Tensor) -> Tensor:
        """(b, 3, s, s) -> (b, dim)."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """(b, 3, s, s) -> (b, t, d), cells row by row."""
        ...


class Encoder:
    """A backbone that is ready to embed.

    Parameters
    ----------
    record
        With the key and precision that features will be stored under.
    embedding
        The network, on `device` and in the record's precision.
    digest
        Digest of its weights; None where it has none.
    device
        Where it runs ("cpu", "cuda").
    """

    def __init__(self, record: BackboneRecord, embedding: Embedding, *, digest: str | None, device: str) -> None:
        self.record = record
        self.device = torch.device(device)
        self.fingerprint = fingerprint_of(record, digest)
        self._embedding = embedding
        self._digest = digest
        self._mean = torch.tensor(record.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(record.std, device=self.device).view(1, 3, 1, 1) * 255
        self._dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[record.precision]

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.record.dim

    def fingerprint_for(self, view: str) -> str:
        """Fingerprint of this encoder's features at a view (`112um-0.5`, `native`)."""
        return fingerprint_of(self.record, self._digest, view=view)

    def encode(self, patches: Tensor) -> Tensor:
        """Embed patches.

        Parameters
        ----------
        patches
            uint8 (b, 3, h, h), on any device; another size than the backbone's is resized, antialiased.

        Returns
        -------
        Tensor
            float32 (b, dim), on the encoder's device.

        Raises
        ------
        BackboneError
            If `patches` are not square uint8 images of three channels.
        """
        if not len(patches):
            return torch.empty(0, self.dim, device=self.device)
        with torch.inference_mode():
            return self._embedding(self._prepared(patches)).float()

    def tokens(self, patches: Tensor) -> Tensor:
        """Embed the cells of patches (b, 3, h, h) apart: float32 (b, t, d), row by row over the token grid.

        Raises
        ------
        BackboneError
            If `patches` are not square uint8 images, or the backbone has no tokens.
        """
        with torch.inference_mode():
            return self._embedding.tokens(self._prepared(patches)).float()

    def _prepared(self, patches: Tensor) -> Tensor:
        """Normalised images (b, 3, input_px, input_px) on the device, in the record's precision."""
        if patches.dtype != torch.uint8 or patches.ndim != 4 or patches.shape[1] != 3:
            msg = f"patches {tuple(patches.shape)} of {patches.dtype}: wanted uint8 (b, 3, h, w)"
            raise BackboneError(msg)
        if patches.shape[2] != patches.shape[3] or not patches.shape[2]:
            msg = f"patches of {patches.shape[2]} x {patches.shape[3]} px: wanted squares"
            raise BackboneError(msg)
        pixels = resized(patches.to(self.device).float(), self.record)
        return pixels.sub_(self._mean).div_(self._std).to(self._dtype)


def resized(pixels: Tensor, record: BackboneRecord) -> Tensor:
    """Bring pixels (b, 3, h, h) of 0..255 to (b, 3, input_px, input_px)."""
    side = record.crop_from_px or record.input_px
    if pixels.shape[-1] != side:
        mode = "bilinear" if record.resize == "none" else record.resize
        pixels = functional.interpolate(pixels, size=(side, side), mode=mode, antialias=True).clamp(0, 255)
    start = (side - record.input_px) // 2
    stop = start + record.input_px
    return pixels[..., start:stop, start:stop]
