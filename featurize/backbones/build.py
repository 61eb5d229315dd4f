"""From a record to an encoder: architecture, weights, and the proof that they belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...store.errors import BackboneError
from .architecture import FAILURES, build_architecture, left_out_names, said
from .encoder import Embedding, Encoder
from .fingerprint import tensors_digest
from .golden import verify_golden
from .haematoxylin import Haematoxylin
from .hub import hub_weights
from .pooling import Pooled
from .record import RANDOM_SUFFIX, BackboneRecord
from .stain_texture import StainTexture
from .weights import load_strictly, read_tensors, without_counters

__all__ = ["Encoder", "build_encoder"]

RANDOM = "random"

EMBEDDED: dict[str, Callable[[], Embedding]] = {"stain-texture": StainTexture, "haematoxylin": Haematoxylin}
"""Encoders that are written here and have no weights, by architecture."""


def build_encoder(record: BackboneRecord, *, weights: str | None = None, device: str = "cpu") -> Encoder:
    """Build the encoder of a record.

    Parameters
    ----------
    weights
        A file; "random" for the bare architecture (seed 0), its key marked `+random0`; None for the record's own
        file, else the hub's at the pinned revision.
    device
        Where it runs ("cpu", "cuda", "cuda:1").

    Raises
    ------
    BackboneError
        If weights are missing, belong to another architecture, give another dimension, or fail the golden vector;
        or the device is not there.
    """
    _check_device(device)
    if record.loader == "embedded":
        return _embedded(record, weights=weights, device=device)
    if record.loader != "timm":
        msg = f"loader {record.loader!r} of backbone {record.key} is not built in; timm models and embedded ones are"
        raise BackboneError(msg)
    if weights == RANDOM:
        record = replace(record, key=record.key + RANDOM_SUFFIX, weights=None, golden=None)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(0)
            network = build_architecture(record)
    else:
        path = Path(weights or record.weights or hub_weights(record))
        tensors = read_tensors(path, key=record.key)
        network = build_architecture(record)
        load_strictly(network, tensors, left_out=left_out_names(record), key=record.key, path=path)
    return _ready(record, network, device=device)


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


def _embedded(record: BackboneRecord, *, weights: str | None, device: str) -> Encoder:
    if weights is not None:
        msg = f"backbone {record.key} has no weights, {weights!r} was given; leave --weights {record.key}=... out"
        raise BackboneError(msg)
    if record.architecture not in EMBEDDED:
        msg = f"embedded architecture {record.architecture!r}: choose one of {', '.join(EMBEDDED)}"
        raise BackboneError(msg)
    embedding = EMBEDDED[record.architecture]()
    _check_dim(record, Encoder(record, embedding, digest=None, device="cpu"))
    return Encoder(record, embedding, digest=None, device=device)


def _ready(record: BackboneRecord, network: nn.Module, *, device: str) -> Encoder:
    """The encoder on its device: verified in fp32 on the CPU first, where golden vectors were made."""
    digest = tensors_digest(without_counters(network.state_dict()))
    exact = replace(record, precision="fp32")
    pooled = Pooled(network.requires_grad_(requires_grad=False), exact)
    proving = Encoder(exact, pooled, digest=digest, device="cpu")
    _check_dim(record, proving)
    if record.golden is not None:
        verify_golden(record.key, record.golden, encode=proving.encode)
    if record.precision == "fp16" and torch.device(device).type == "cpu":
        record = exact  # half precision has no arithmetic of its own on a CPU
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    pooled.to(device=torch.device(device), dtype=dtypes[record.precision])
    return Encoder(record, pooled, digest=digest, device=device)


def _check_dim(record: BackboneRecord, encoder: Encoder) -> None:
    """Embed one grey patch and hold its length against the record's."""
    grey = torch.full((1, 3, record.input_px, record.input_px), 128, dtype=torch.uint8)
    try:
        found = encoder.encode(grey)
    except BackboneError:
        raise
    except FAILURES as error:
        msg = (
            f"backbone {record.key} ({record.architecture}) does not take an input of {record.input_px} px "
            f"({said(error)}): mend input_px or architecture_options in its record"
        )
        raise BackboneError(msg) from error
    if found.shape[-1] != record.dim:
        msg = f"backbone {record.key} gives {found.shape[-1]} dimensions, its record says {record.dim}: mend the record"
        raise BackboneError(msg)
