"""Architectures built through timm from a record, without network and without remote code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...store.errors import BackboneError
from .record import BackboneRecord
from .torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from torch import nn

CUTS = ("num_classes", "features_only", "out_indices", "global_pool")
"""Options that leave parts of an architecture out, so that its published weights hold more than is loaded."""

FAILURES = (
    TypeError, ValueError, RuntimeError, AssertionError, LookupError, ArithmeticError, AttributeError, OSError,
    ImportError, MemoryError,
)  # fmt: skip
"""What architectures are seen to raise on options or inputs that they were not made for."""

_CLASS_OPTIONS = ("mlp_layer", "act_layer")


def build_architecture(record: BackboneRecord) -> nn.Module:
    """Build the model of a timm record, randomly initialised, in evaluation mode.

    Raises
    ------
    BackboneError
        If timm has no such architecture, or it does not take the record's options.
    """
    return _create(record, record.architecture_options).eval()


def left_out_names(record: BackboneRecord) -> frozenset[str]:
    """Tensors of the whole architecture that the record's cut of it does not hold: classifier, later stages."""
    import torch

    cut = [name for name in CUTS if name in record.architecture_options]
    if not cut:
        return frozenset()
    whole = {name: value for name, value in record.architecture_options.items() if name not in cut}
    with torch.device("meta"):  # names only: no memory, no initialisation
        return frozenset(_create(record, whole).state_dict())


def _create(record: BackboneRecord, options: dict[str, Any]) -> nn.Module:
    ensure_torchvision()
    import timm

    if not timm.is_model(record.architecture):
        near = timm.list_models(f"*{record.architecture[:8]}*")[:5]
        msg = (
            f"architecture {record.architecture!r} of backbone {record.key} is none that timm {timm.__version__} has"
            + (f"; near it: {', '.join(near)}" if near else "")
        )
        raise BackboneError(msg)
    resolved = _with_classes(options)
    try:
        model: nn.Module = timm.create_model(record.architecture, pretrained=False, **resolved)
    except FAILURES as error:
        msg = (
            f"architecture {record.architecture} of backbone {record.key} does not take the options {options} "
            f"({said(error)}): mend architecture_options in its record"
        )
        raise BackboneError(msg) from error
    return model


def said(error: BaseException) -> str:
    """Kind and text of an error from elsewhere; many have no text, or only the bare key that was not found."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _with_classes(options: dict[str, Any]) -> dict[str, Any]:
    """Options with layer classes in the place of their names; a record file cannot name any other code."""
    import torch
    from timm.layers import GluMlp, Mlp, SwiGLU, SwiGLUPacked

    classes = {
        "Mlp": Mlp, "GluMlp": GluMlp, "SwiGLU": SwiGLU, "SwiGLUPacked": SwiGLUPacked,
        "GELU": torch.nn.GELU, "SiLU": torch.nn.SiLU, "ReLU": torch.nn.ReLU,
    }  # fmt: skip
    resolved = dict(options)
    for name in _CLASS_OPTIONS:
        if name in options:
            if not isinstance(options[name], str) or options[name] not in classes:
                msg = f"{name} {options[name]!r} of a backbone record: choose one of {', '.join(classes)}"
                raise BackboneError(msg)
            resolved[name] = classes[options[name]]
    return resolved
