"""From a record to an encoder: architecture, weights, and the proof that they belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...store.errors import BackboneError
from .architectures import FAILURES, build_architecture, cannot_be_built, left_out_names, said
from .encoder import Embedding, Encoder, Pooled
from .fingerprint import tensors_digest
from .golden import verify_golden
from .hub import check_within_reach, hub_weights
from .placement import chosen_precision, place
from .record import RANDOM_SUFFIX, BackboneRecord
from .stain_texture import Haematoxylin, StainTexture
from .weights import load_strictly, named_as_built, read_tensors, without_counters

__all__ = ["Encoder", "build_encoder"]

RANDOM = "random"

EMBEDDED: dict[str, Callable[[], Embedding]] = {"stain-texture": StainTexture, "haematoxylin": Haematoxylin}
"""Encoders that are written here and have no weights, by architecture."""


def build_encoder(
    record: BackboneRecord,
    *,
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "auto",
    compiled: bool = False,
) -> Encoder:
    """Build the encoder of a record.

    Parameters
    ----------
    weights
        A file; "random" for the bare architecture (seed 0), its key marked `+random0`; None for the record's own
        file, else the hub's at the pinned revision, or the newest where none is pinned.
    device
        Where it runs ("cpu", "cuda", "cuda:1").
    precision
        "auto" for the record's where the device has it, or the one to run in ("fp32", "fp16", "bf16").
    compiled
        Through torch.compile: slow to start, faster after.

    Returns
    -------
    Encoder
        Its record says what was loaded and how it runs: commit or file of the weights, and precision.

    Raises
    ------
    BackboneError
        If the model's code is remote; weights are missing, belong to another architecture, give another dimension, or
        fail the golden vector; or the device is not there.
    MissingDependencyError
        If the library that has the architecture is not installed.
    """
    _check_device(device)
    if record.loader == "embedded":
        return _embedded(record, weights=weights, device=device, precision=precision)
    if record.loader == "remote":
        raise cannot_be_built(record)
    if weights == RANDOM:
        record, network = _random(record)
    else:
        record, network = _loaded(record, weights=weights)
    return _ready(record, network, device=device, precision=precision, compiled=compiled)


def _random(record: BackboneRecord) -> tuple[BackboneRecord, nn.Module]:
    record = replace(record, key=record.key + RANDOM_SUFFIX, weights=None, revision=None, golden=None)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(0)
        return record, build_architecture(record)


def _loaded(record: BackboneRecord, *, weights: str | None) -> tuple[BackboneRecord, nn.Module]:
    """The network with its weights, and the record with the place that they came from."""
    local = weights or record.weights
    if local is None:
        check_within_reach(record)
        network = build_architecture(record)  # before a download that would be for nothing where it fails
        found = hub_weights(record)
        path = found.path
        tensors = read_tensors(path, key=record.key)
        record = replace(record, revision=found.commit)
    else:
        path = Path(local)
        tensors = read_tensors(path, key=record.key)  # before a slow initialisation that would be for nothing
        network = build_architecture(record)
        record = replace(record, weights=local, revision=None if weights else record.revision)
    renamed = named_as_built(record, tensors)
    load_strictly(network, renamed, left_out=left_out_names(record), key=record.key, path=path)
    return record, network


def _check_device(device: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    choices = ", ".join(["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))])
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        msg = f"device {device!r} is not the name of a device; choose one of {choices}"
        raise BackboneError(msg) from error
    if kind not in ("cpu", "cuda"):
        msg = f"device {device!r} is neither the CPU nor a CUDA GPU; choose one of {choices}"
        raise BackboneError(msg)
    if kind == "cuda" and not count:
        msg = f"device {device!r}: this torch ({torch.__version__}) sees no CUDA GPU; choose one of {choices}"
        raise BackboneError(msg)
    try:
        torch.empty(1, device=device)  # a GPU can be seen and still refuse: another number, a process that holds it
    except (RuntimeError, AssertionError) as error:
        msg = f"device {device!r} cannot be used ({said(error)}); choose one of {choices}"
        raise BackboneError(msg) from error


def _embedded(record: BackboneRecord, *, weights: str | None, device: str, precision: str) -> Encoder:
    if weights is not None:
        msg = f"backbone {record.key} has no weights, {weights!r} was given; leave --weights {record.key}=... out"
        raise BackboneError(msg)
    if record.architecture not in EMBEDDED:
        msg = f"embedded architecture {record.architecture!r}: choose one of {', '.join(EMBEDDED)}"
        raise BackboneError(msg)
    record = replace(record, precision=chosen_precision(record, device, asked=precision))
    embedding = EMBEDDED[record.architecture]()
    _check_dim(record, Encoder(record, embedding, digest=None, device="cpu"))
    return Encoder(record, embedding, digest=None, device=device)


def _ready(record: BackboneRecord, network: nn.Module, *, device: str, precision: str, compiled: bool) -> Encoder:
    """The encoder on its device: verified in fp32 on the CPU first, where golden vectors were made."""
    digest = tensors_digest(without_counters(network.state_dict()))
    exact = replace(record, precision="fp32")
    pooled = Pooled(network.requires_grad_(requires_grad=False), exact)
    proving = Encoder(exact, pooled, digest=digest, device="cpu")
    _check_dim(record, proving)
    if record.golden is not None:
        verify_golden(record.key, record.golden, encode=proving.encode)
    chosen = chosen_precision(record, device, asked=precision)
    place(pooled, device=device, precision=chosen, compiled=compiled)
    return Encoder(replace(record, precision=chosen), pooled, digest=digest, device=device)


def _check_dim(record: BackboneRecord, encoder: Encoder) -> None:
    """Embed one grey patch and hold its length against the record's."""
    grey = torch.full((1, 3, record.input_px, record.input_px), 128, dtype=torch.uint8)
    try:
        with torch.inference_mode():  # one pass, which for the largest nets takes seconds
            pixels = encoder.prepare(grey)
            found, cells = encoder.embedding.both(pixels) if record.token_grid else (encoder.embedding(pixels), None)
    except BackboneError:
        raise
    except FAILURES as error:
        msg = (
            f"backbone {record.key} ({record.architecture}) does not take an input of {record.input_px} px "
            f"({said(error)}): correct input_px or architecture_options in its record"
        )
        raise BackboneError(msg) from error
    if found.shape[-1] != record.dim:
        gives = f"backbone {record.key} gives {found.shape[-1]} dimensions"
        msg = f"{gives}, its record says {record.dim}: correct the record"
        raise BackboneError(msg)
    if cells is not None:
        _check_tokens(record, cells.shape[1])


def _check_tokens(record: BackboneRecord, cells: int) -> None:
    """Hold the number of patch tokens against the record: a wrong prefix would take registers for tissue."""
    rows, columns = record.token_grid or (0, 0)
    if cells != rows * columns or rows != columns:
        msg = (
            f"backbone {record.key} gives {cells} patch tokens after {record.prefix_tokens} others, its record says "
            f"{rows} x {columns}: correct token_grid or prefix_tokens in the record"
        )
        raise BackboneError(msg)
