"""Weights: read without executing anything, loaded strictly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

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
