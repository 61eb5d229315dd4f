"""Weights: read without executing anything, loaded strictly."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.errors import BackboneError
from .record import BackboneRecord

if TYPE_CHECKING:
    from torch import Tensor, nn

    Tensors = dict[str, Tensor]

_PICKLED = (".bin", ".pt", ".pth")

_WRAPPERS = ("state_dict", "model")
"""Keys under which training code commonly puts the tensors."""


def read_tensors(path: Path, *, key: str) -> dict[str, Tensor]:
    """Read the tensors of a weights file onto the CPU.

    Parameters
    ----------
    path
        `.safetensors`, or a `.bin`, `.pt` or `.pth` that holds nothing but tensors.
    key
        The backbone, for messages.

    Raises
    ------
    BackboneError
        If there is no such file, or it does not hold tensors.
    """
    if not path.is_file():
        msg = f"weights of backbone {key}: there is no file {path}; give another with --weights {key}=PATH"
        raise BackboneError(msg)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, key=key)
    if path.suffix in _PICKLED:
        return _read_pickled(path, key=key)
    msg = f"weights of backbone {key}: {path} is neither .safetensors nor {', '.join(_PICKLED)}"
    raise BackboneError(msg)


def _read_safetensors(path: Path, *, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        msg = f"weights of backbone {key}: {path} is no safetensors file ({error}); download it again"
        raise BackboneError(msg) from error
    return tensors


def _read_pickled(path: Path, *, key: str) -> dict[str, Tensor]:
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        msg = (
            f"weights of backbone {key}: {path} is no file of plain tensors ({type(error).__name__}); files that would "
            "run code on loading are refused: convert it to safetensors, or download it again"
        )
        raise BackboneError(msg) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        msg = f"weights of backbone {key}: {path} holds {type(content).__name__}, wanted a state dict of tensors"
        raise BackboneError(msg)
    return dict(content)


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Tensor], *, left_out: frozenset[str], key: str, path: Path
) -> None:
    """Put tensors into a model: each of its own must be there in its shape, and none may be left over.

    Parameters
    ----------
    left_out
        Tensors that belong to the architecture but not to this cut of it (classifier, later stages); they may lie
        in the file and are passed over.

    Raises
    ------
    BackboneError
        If the file belongs to another architecture, or to other options of this one.
    """
    own = without_counters(model.state_dict())
    given = {n: t for n, t in without_counters(tensors).items() if n in own or n not in left_out}
    faults = [
        _fault("missing", [name for name in own if name not in given]),
        _fault("unknown", [name for name in given if name not in own]),
        _fault("of another shape", [name for name in own if name in given and own[name].shape != given[name].shape]),
    ]
    if any(faults):
        msg = (
            f"weights of backbone {key}: {path.name} belongs to another architecture or other options: "
            f"{'; '.join(filter(None, faults))}, of {len(own)} wanted and {len(given)} given"
        )
        raise BackboneError(msg)
    model.load_state_dict(given, strict=True)


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out how many batches a normalisation was trained on: some files keep it, and it shapes no output."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _fault(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'} {what}"


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


_LIBRARIES = {
    "embedded": ("torch",),
    "timm": ("torch", "timm"),
    "transformers": ("torch", "transformers"),
    "custom": ("torch", "timm"),
}

_INSTALL = {"transformers": 'pip install "tissuary[transformers]"'}


def missing(record: BackboneRecord) -> str | None:
    """What this machine lacks to build a backbone, or None where it can be built."""
    if record.loader == "remote":
        return record.needs
    lacking = [name for name in _LIBRARIES[record.loader] if find_spec(name) is None]
    return ", ".join(_INSTALL.get(name, f"pip install {name}") for name in lacking) or None


def source(record: BackboneRecord) -> str:
    """Where its weights come from, and at which commit."""
    if record.loader == "embedded":
        return "without weights"
    if record.weights is not None or record.hub_id is None:
        return record.weights or "a local file"
    return f"{record.hub_id}, pinned to {record.revision}" if is_pinned(record) else f"{record.hub_id}, not pinned"


def is_pinned(record: BackboneRecord) -> bool:
    """Whether its revision is a commit, and not a branch or tag that can move."""
    return record.revision is not None and re.fullmatch(r"[0-9a-f]{40}", record.revision) is not None
