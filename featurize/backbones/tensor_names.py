"""Names of tensors: published files carry those of the code they were trained with, networks here their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .record import BackboneRecord

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

_ATTENTION = (
    (r"attention\.attention\.(query|key|value)\.", lambda m: f"attention.{m[1][0]}_proj."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
)
_VIT = (
    *_ATTENTION,
    (r"^vit\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.", ".mlp.fc2."),
)
_DINOV2 = (*_ATTENTION, (r"^dinov2\.", ""), (r"mlp\.weights_out\.", "mlp.down_proj."))


def named_as_built(record: BackboneRecord, tensors: Tensors) -> Tensors:
    """Rename the tensors of a published file to the names of the network that is built here.

    Tensors that belong to other parts of the published model (text encoder, pooler, mask token) are left out; what is
    not known keeps its name, for strict loading to report.

    Parameters
    ----------
    tensors
        As they lie in the file.
    """
    if record.loader == "timm":
        return from_dinov2(tensors) if _DINOV2_MARKS & set(tensors) else tensors
    return _RENAMERS[record.architecture](tensors) if record.architecture in _RENAMERS else tensors


_DINOV2_MARKS = {"mask_token", "register_tokens", "blocks.0.mlp.w12.weight"}


def from_dinov2(tensors: Tensors) -> Tensors:
    """Names of DINOv2's own code to those of timm.

    With registers, timm adds positions to patches only: the class token takes its position with it.
    """
    own = {
        re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", name)): tensor
        for name, tensor in tensors.items()
        if name != "mask_token"
    }
    if "register_tokens" in own and "cls_token" in own and "pos_embed" in own:
        own["reg_token"] = own.pop("register_tokens")
        own["cls_token"] = own["cls_token"] + own["pos_embed"][:, :1]  # (1, 1, d)
        own["pos_embed"] = own["pos_embed"][:, 1:]  # (1, patches, d)
    return own


def _vit(tensors: Tensors) -> Tensors:
    named = {_renamed(name, _VIT): tensor for name, tensor in tensors.items()}
    return {
        f"model.{name}": t for name, t in named.items() if not name.startswith(("pooler.", "embeddings.mask_token"))
    }


def _dinov2(tensors: Tensors) -> Tensors:
    named: Tensors = {}
    for published, tensor in tensors.items():
        name = f"model.{_renamed(published, _DINOV2)}"
        if ".mlp.weights_in." in name:  # gate and value in one tensor
            gate, value = tensor.chunk(2, dim=0)
            named[name.replace("weights_in", "gate_proj")] = gate
            named[name.replace("weights_in", "up_proj")] = value
        else:
            named[name] = tensor
    return named


def _clip_vision(tensors: Tensors) -> Tensors:
    other = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")
    return {f"model.{name}": tensor for name, tensor in tensors.items() if not name.startswith(other)}


def _keep(tensors: Tensors) -> Tensors:
    """KEEP calls the scale of a layer `weight`, timm `gamma`."""
    return {
        re.sub(r"\.(ls[12])\.weight$", r".\1.gamma", name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(("text.", "logit_scale"))
    }


def _renamed(name: str, rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


_RENAMERS: dict[str, Callable[[Tensors], Tensors]] = {
    "ViTModel": _vit,
    "Dinov2Model": _dinov2,
    "CLIPVisionModelWithProjection": _clip_vision,
    "projected-vit": _keep,
}
