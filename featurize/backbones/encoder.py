"""The encoder: uint8 patches in, embeddings out, resized and normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...store.errors import BackboneError
from .fingerprint import fingerprint_of
from .placing import DTYPES
from .record import BackboneRecord
from .token_grid import pooled_grid


class Embedding(Protocol):
    """What turns normalised images into numbers."""

    def __call__(self, x: Tensor) -> Tensor:
        """(b, 3, s, s) -> (b, dim)."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """(b, 3, s, s) -> (b, t, d), cells row by row."""
        ...

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, s, s) -> (b, dim) and (b, t, d), from one pass."""
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
        self.embedding = embedding
        self._digest = digest
        # (value / 255 - mean) / std as value * scale + shift: one pass over the pixels.
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (record.mean, record.std))
        self._scale, self._shift = (v.float().to(self.device) for v in (1 / (255 * std), -mean / std))

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.record.dim

    @cached_property
    def token_dim(self) -> int:
        """Length of a patch token, found by embedding one black patch.

        Raises
        ------
        BackboneError
            If the backbone has no tokens.
        """
        black = torch.zeros(1, 3, self.record.input_px, self.record.input_px, dtype=torch.uint8)
        return self.tokens(black).shape[-1]

    def fingerprint_for(self, view: str) -> str:
        """Fingerprint of this encoder's features at a view (`112um-0.5`, `native`)."""
        return fingerprint_of(self.record, self._digest, view=view)

    def encode(self, patches: Tensor) -> Tensor:
        """Embed patches.

        Parameters
        ----------
        patches
            uint8 (b, 3, h, h), on any device; a view of (b, h, h, 3) data costs no rearranging; another size
            than the backbone's is resized, antialiased.

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
            return self.embedding(self.prepare(patches)).float()

    def tokens(self, patches: Tensor) -> Tensor:
        """Embed the cells of patches (b, 3, h, h) apart: float32 (b, t, d), row by row over the token grid.

        Raises
        ------
        BackboneError
            If `patches` are not square uint8 images, or the backbone has no tokens.
        """
        with torch.inference_mode():
            return self.embedding.tokens(self.prepare(patches)).float()

    def encode_with_grids(
        self, patches: Tensor, *, grids: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
        """Embed patches and their cells in one forward pass.

        Parameters
        ----------
        patches
            As for `encode`.
        grids
            Rows and columns of the token grids wanted, none finer than the backbone's own.

        Returns
        -------
        tuple
            float32 (b, dim), and under each grid float32 (b, rows * columns, d), averaged by area.

        Raises
        ------
        BackboneError
            If `patches` are not square uint8 images, or the backbone has no such tokens.
        """
        own = self.record.token_grid
        if own is None:
            msg = f"backbone {self.record.key} has no token_grid in its record: ask for its vectors alone"
            raise BackboneError(msg)
        if not len(patches):
            empty = {(r, c): torch.empty(0, r * c, self.token_dim, device=self.device) for r, c in grids}
            return self.encode(patches), empty
        with torch.inference_mode():
            vectors, tokens = self.embedding.both(self.prepare(patches))
            cells = tokens.float()
            return vectors.float(), {grid: pooled_grid(cells, grid=own, to=grid) for grid in grids}

    def prepare(self, patches: Tensor) -> Tensor:
        """Resized and normalised images (b, 3, input_px, input_px) on the device, in the record's precision.

        Channels-last, as the network's weights are; planar for the embedded encoders, which work plane by plane.
        """
        if patches.dtype != torch.uint8 or patches.ndim != 4 or patches.shape[1] != 3:
            msg = f"patches {tuple(patches.shape)} of {patches.dtype}: wanted uint8 (b, 3, h, w)"
            raise BackboneError(msg)
        if patches.shape[2] != patches.shape[3] or not patches.shape[2]:
            msg = f"patches of {patches.shape[2]} x {patches.shape[3]} px: wanted squares"
            raise BackboneError(msg)
        planar = self.record.loader == "embedded"
        layout = torch.contiguous_format if planar else torch.channels_last
        pixels = resized(patches.to(self.device), self.record).to(torch.float32, memory_format=layout)
        b, _, height, width = pixels.shape
        if planar:
            lines, scale, shift = pixels, self._scale.view(3, 1, 1), self._shift.view(3, 1, 1)
        else:  # whole lines with the three numbers repeated: innermost loops of three would be slow
            lines = pixels.permute(0, 2, 3, 1).view(b, height, width * 3)
            scale, shift = self._scale.repeat(width), self._shift.repeat(width)
        torch.addcmul(shift, lines, scale, out=lines)
        return pixels.to(DTYPES[self.record.precision])


def resized(pixels: Tensor, record: BackboneRecord) -> Tensor:
    """Bring pixels (b, 3, h, h) of 0..255 to (b, 3, input_px, input_px), of float32 where they were interpolated."""
    side = record.crop_from_px or record.input_px
    if pixels.shape[-1] != side:
        mode = "bilinear" if record.resize == "none" else record.resize
        pixels = functional.interpolate(pixels.float(), size=(side, side), mode=mode, antialias=True).clamp_(0, 255)
    start = (side - record.input_px) // 2
    stop = start + record.input_px
    return pixels[..., start:stop, start:stop]
