"""A head as its options and what it learnt, and back; neural heads with their networks and training rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...store.errors import HeadError
from .device import device_of
from .head import NeuralHead
from .rows import RowData
from .saving_values import class_at, location_of, unpack

if TYPE_CHECKING:
    from .saving_values import Packer

MODULES, TARGETS = "modules_", "reference_targets_"


def packed_head(head: Any, packer: Packer, name: str) -> dict[str, Any]:
    """A fitted head as JSON, its arrays with the packer.

    Saved are the constructor's options, and every attribute that ends in `_`.

    Raises
    ------
    HeadError
        If it is not fitted, or keeps something that cannot be saved.
    """
    learnt = {k: v for k, v in vars(head).items() if k.endswith("_") and not k.startswith("_")}
    if not learnt:
        msg = f"{type(head).__name__} has learnt nothing: fit it before it is saved"
        raise HeadError(msg)
    if isinstance(head, NeuralHead):
        learnt |= _networks(head)
    return {
        "class": location_of(type(head)) or f"{type(head).__module__}:{type(head).__qualname__}",
        "options": {k: packer.pack(v, f"{name}.{k}") for k, v in constructor_options(head).items()},
        "learnt": {k: packer.pack(v, f"{name}.{k}") for k, v in learnt.items()},
    }


def restored_head(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]], *, head_class: type | None = None) -> Any:
    """The head again.

    Parameters
    ----------
    head_class
        Of a head from outside this package.

    Raises
    ------
    HeadError
        If its class is not here, or takes other options.
    """
    cls = class_at(words["class"]) if head_class is None else head_class
    try:
        head = cls(**{k: unpack(v, arrays) for k, v in words["options"].items()})
    except TypeError as error:
        msg = f"{words['class']}: {error}; it was saved by another version of tissuary"
        raise HeadError(msg) from error
    learnt = {k: unpack(v, arrays) for k, v in words["learnt"].items()}
    if isinstance(head, NeuralHead):
        states, targets = learnt.pop(MODULES), learnt.pop(TARGETS)
        _set(head, learnt)
        head.modules_ = [_network(head, state) for state in states]
        _look_up_again(head, targets)
    else:
        _set(head, learnt)
    return head


def constructor_options(head: Any) -> dict[str, Any]:
    """Values of the constructor's parameters, as the head stored them.

    Raises
    ------
    HeadError
        If it did not store one under its name.
    """
    names = list(inspect.signature(type(head)).parameters)
    missing = [name for name in names if not hasattr(head, name)]
    if missing:
        msg = (
            f"{type(head).__name__} does not store its option {', '.join(missing)} under that name: it cannot be saved"
        )
        raise HeadError(msg)
    return {name: getattr(head, name) for name in names}


def _set(head: Any, learnt: dict[str, Any]) -> None:
    for name, value in learnt.items():
        setattr(head, name, value)


def _networks(head: NeuralHead) -> dict[str, Any]:
    """What a neural head has learnt beside plain values; an anchor's cross-fitted training rows are left out."""
    rows, reference, anchor = head._reference_rows, head.reference_, head.anchor_
    targets = None if rows is None or rows.shown is None else rows.shown.cpu().numpy()
    if reference is not None:
        used = {column.key for column in head.columns(reference)}
        tokens = {key: column for key, column in reference.token_columns.items() if key in used}
        reference = replace(reference, token_columns=tokens)
    return {
        "reference_": reference,
        MODULES: [dict(module.state_dict()) for module in head.modules_],
        TARGETS: targets,
        "anchor_": None if anchor is None else replace(anchor, held_out=np.empty((0, len(anchor.path.y_mean)))),
    }


def _network(head: NeuralHead, state: dict[str, torch.Tensor]) -> Any:
    """A network from its tensors, those that `prepare` gave another shape included.

    Raises
    ------
    HeadError
        If `build` makes other layers.
    """
    module = head.build(head.shape_)
    own = module.state_dict()
    if set(own) != set(state):
        odd = ", ".join(sorted(set(own) ^ set(state))[:4])
        msg = f"{type(head).__name__}.build makes other layers than were saved ({odd}): load it with the same version"
        raise HeadError(msg)
    for name, value in state.items():
        if own[name].shape != value.shape:
            _replace(module, name, value)
    module.load_state_dict(state)
    return module.to(device_of(head.device)).eval()


def _replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = torch.empty_like(value)
    else:
        owner._parameters[leaf] = nn.Parameter(torch.empty_like(value), requires_grad=False)


def _look_up_again(head: NeuralHead, targets: NDArray[np.float32] | None) -> None:
    """Training rows for look-alikes, as `fit` had them."""
    head._reference_rows = None
    if head.reference_ is None:
        return
    data = RowData.of(head.reference_, head.columns(head.reference_), device_of(head.device))
    data = replace(data, expression=head.expression)
    head._reference_rows = data if targets is None else data.with_targets(targets)
