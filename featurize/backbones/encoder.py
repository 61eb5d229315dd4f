"""The encoder: uint8 patches in, embeddings out, resized and normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...store.errors import BackboneError
from .fingerprint import fingerprint_of
from .placement import DTYPES
from .record import BackboneRecord

BY_NETWORK = ("model", "projected")
"""Poolings that are the network's own head."""

BY_TOKENS = ("cls", "cls+mean")


class Pooled(nn.Module):
    """A network whose embedding is pooled as its record says.

    Parameters
    ----------
    network
        With `forward_features` (tokens or a feature map) and `forward_head` (these to a vector), as timm's models.
    record
        Gives the pooling and the number of tokens before the patch tokens.
    """

    def __init__(self, network: nn.Module, record: BackboneRecord) -> None:
        super().__init__()
        self.network = network
        self.record = record

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images (b, 3, s, s): (b, dim)."""
        return self._vector(self._features(x))

    def tokens(self, x: Tensor) -> Tensor:
        """Patch tokens, or the cells of the last feature map, of normalised images: (b, t, d), row by row."""
        return self._cells(self._features(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (b, dim) and patch tokens (b, t, d) of normalised images, from one pass of the network."""
        found = self._features(x)
        return self._vector(found), self._cells(found)

    def _features(self, x: Tensor) -> Tensor:
        network: Any = self.network
        if self.record.architecture_options.get("features_only"):
            last: Tensor = network(x)[-1]  # one map for each stage asked for
            return last
        found: Tensor = network.forward_features(x)
        return found

    def _vector(self, found: Tensor) -> Tensor:
        pooling = self.record.pooling
        if pooling in BY_NETWORK:
            network: Any = self.network
            head = getattr(network, "forward_head", None)  # a cut that ends in a feature map has none
            return self._of_rank(found if head is None else head(found), 2, "one vector a patch")
        if pooling == "global average":
            return self._cells(found).mean(dim=1)  # (b, t, d) -> (b, d)
        if pooling not in BY_TOKENS:
            msg = (
                f"pooling {pooling!r} of backbone {self.record.key} is its makers' own and not built here; choose one "
                f"of {', '.join(map(repr, (*BY_TOKENS, 'global average', *BY_NETWORK)))}"
            )
            raise BackboneError(msg)
        tokens = self._of_rank(found, 3, "tokens")
        if not self.record.prefix_tokens:
            msg = (
                f"pooling {pooling!r} of backbone {self.record.key}: its record has no prefix_tokens, so no class token"
            )
            raise BackboneError(msg)
        cls = tokens[:, 0]
        if pooling == "cls":
            return cls
        return torch.cat([cls, tokens[:, self.record.prefix_tokens :].mean(dim=1)], dim=-1)  # (b, 2 d)

    def _cells(self, found: Tensor) -> Tensor:
        if found.ndim == 4:
            channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
            return found.flatten(1, 2) if channels_last else found.flatten(2).transpose(1, 2)
        return self._of_rank(found, 3, "tokens or a feature map")[:, self.record.prefix_tokens :]

    def _of_rank(self, found: Tensor, rank: int, wanted: str) -> Tensor:
        if found.ndim != rank:
            msg = (
                f"pooling {self.record.pooling!r} of backbone {self.record.key} needs {wanted}, "
                f"its network gives {tuple(found.shape)}; choose another pooling in the record"
            )
            raise BackboneError(msg)
        return found


def pooled_grid(tokens: Tensor, *, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Average the tokens of a grid over the cells of a coarser one.

    Tokens are taken as a map that is constant over each token's square. A cell of the result is the integral of that
    map over the cell, divided by the cell's area: 14 x 14 -> 7 x 7 is the mean of 2 x 2 tokens, and in 16 x 16 -> 7 x 7
    a token on a border counts in both cells by the share that lies in each. So every token has the same total weight,
    the mean over all cells is that of all tokens, and equal tokens stay as they are. (The bins of
    `adaptive_avg_pool2d` overlap by whole tokens: those at borders count twice, and the mean is not kept.)

    Parameters
    ----------
    tokens
        (b, rows * columns, d), row by row.
    grid
        Rows and columns of the tokens.
    to
        Rows and columns wanted.

    Returns
    -------
    Tensor
        (b, rows * columns, d) of the wanted grid, in the tokens' dtype; sums are taken in float64.

    Raises
    ------
    BackboneError
        If there are not as many tokens as `grid` says, or `to` is finer than `grid`.
    """
    (height, width), (rows, columns) = grid, to
    if tokens.ndim != 3 or tokens.shape[1] != height * width:
        msg = f"tokens {tuple(tokens.shape)}: a grid of {height} x {width} wants (b, {height * width}, d)"
        raise BackboneError(msg)
    if not (1 <= rows <= height and 1 <= columns <= width):
        msg = f"a grid of {rows} x {columns} from {height} x {width} tokens: ask for at most {height} x {width}"
        raise BackboneError(msg)
    if grid == to:
        return tokens
    cells = tokens.double().view(len(tokens), height, width, -1)
    cells = torch.einsum("ri,bijd->brjd", _overlaps(height, rows, cells.device), cells)
    cells = torch.einsum("cj,brjd->brcd", _overlaps(width, columns, cells.device), cells)
    return (cells / (height * width)).flatten(1, 2).to(tokens.dtype)  # (b, r, c, d) -> (b, r * c, d)


def _overlaps(size: int, cells: int, device: torch.device) -> Tensor:
    """Lengths shared by `cells` equal cells and `size` equal tokens of one axis, whole numbers: (cells, size).

    The axis is `size * cells` long, so that borders of both fall on whole numbers; each row sums to `size`.
    """
    cell, token = torch.arange(cells, device=device)[:, None] * size, torch.arange(size, device=device) * cells
    return (torch.minimum(cell + size, token + cells) - torch.maximum(cell, token)).clamp(min=0).double()


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
