"""Architectures built from a record, without network and without remote code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...store.errors import BackboneError
from .failures import FAILURES, said
from .record import BackboneRecord
from .torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from torch import nn

CUTS = ("num_classes", "features_only", "out_indices", "global_pool")
"""Options that leave parts of an architecture out, so that its published weights hold more than is loaded."""

_CLASS_OPTIONS = ("mlp_layer", "act_layer")


def build_architecture(record: BackboneRecord) -> nn.Module:
    """Build the network of a record, randomly initialised, in evaluation mode.

    Returns
    -------
    nn.Module
        With `forward_features` (tokens or a feature map) and `forward_head` (these to one vector a patch).

    Raises
    ------
    BackboneError
        If its loader has no such architecture, it does not take the record's options, or its code is remote.
    MissingDependencyError
        If the library that has the architecture is not installed.
    """
    if record.loader == "timm":
        return _create(record, record.architecture_options).eval()
    if record.loader == "transformers":
        from .transformers_network import transformers_network

        return transformers_network(record).eval()
    if record.loader == "custom":
        from .projected_vit import projected_vit

        return projected_vit(record).eval()
    raise cannot_be_built(record)


def cannot_be_built(record: BackboneRecord) -> BackboneError:
    """The error for a model whose code is in none of the libraries used here."""
    return BackboneError(
        f"backbone {record.key} cannot be built here: the code of {record.architecture} is not in timm or "
        f"transformers. It needs {record.needs}, and this library runs no code that comes with weights. Embed with "
        "its own package and import the features (not available in this version)"
    )


def left_out_names(record: BackboneRecord) -> frozenset[str]:
    """Tensors of the whole architecture that the record's cut of it does not hold: classifier, later stages."""
    import torch

    cut = [name for name in CUTS if name in record.architecture_options]
    if record.loader != "timm" or not cut:
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
            f"({said(error)}): correct architecture_options in its record"
        )
        raise BackboneError(msg) from error
    return model


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
