"""What heads learn as JSON and named arrays, and back: no pickle, and no class from outside this package."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...store.errors import HeadError
from ...store.table import Table
from ..engine.device import device_of
from ..engine.head import NeuralHead
from ..engine.rows import RowData
from .earlier_locations import present_location
from .table import packed_table, unpacked_table
from .trees import FlatBoosting, FlatForest

ROOT = __name__.rsplit(".", 3)[0]
LOCATION = re.compile(r"(?P<module>(?:heads|store)(?:\.[a-z][a-z0-9_]*)+):(?P<name>_?[A-Za-z]\w*)")

ESTIMATORS = {
    "StandardScaler": "sklearn.preprocessing",
    "PCA": "sklearn.decomposition",
    "Ridge": "sklearn.linear_model",
    "Pipeline": "sklearn.pipeline",
}
"""Estimators of scikit-learn that are nothing but their parameters and fitted arrays."""

FLAT: dict[str, Any] = {"RandomForestRegressor": FlatForest, "HistGradientBoostingRegressor": FlatBoosting}
"""Estimators that are saved as what they predict with."""


@dataclass
class Packer:
    """Collects arrays by name while values become JSON.

    Numbers, words, lists, tuples, dictionaries, arrays, tensors, tables, and dataclasses and heads of this package are
    known. The memory order of matrices is kept, since sums over another order are rounded differently.
    """

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def pack(self, value: Any, name: str) -> Any:
        """The value as JSON, its arrays put aside under `name`.

        Raises
        ------
        HeadError
            If it is of a kind that cannot be saved.
        """
        if value is None or (isinstance(value, bool | int | str) and not isinstance(value, np.generic)):
            return value
        if isinstance(value, float) and not isinstance(value, np.generic):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, list):
            return [self.pack(one, f"{name}.{i}") for i, one in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.pack(one, f"{name}.{i}") for i, one in enumerate(value)]}
        if isinstance(value, Mapping):
            parts = enumerate(value.items())
            return {"pairs": [[self.pack(one, f"{name}.{i}") for one in pair] for i, pair in parts]}
        return self._object(value, name)

    def _object(self, value: Any, name: str) -> Any:
        import torch

        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, name)
        if isinstance(value, torch.Tensor):
            return {"tensor": self._array(value.detach().cpu().numpy(), name)}
        if isinstance(value, Table):
            return {"table": self.pack(packed_table(value), name)}
        kind = type(value).__name__
        if type(value).__module__.startswith("sklearn.") and kind in FLAT:
            return self.pack(FLAT[kind].of(value), name)
        if type(value).__module__.startswith("sklearn.") and kind in ESTIMATORS:
            fitted = {k: v for k, v in vars(value).items() if k.endswith("_") and not k.startswith("_")}
            parts = {"parameters": value.get_params(deep=False), "fitted": fitted}
            return {"estimator": kind, **{k: self.pack(v, f"{name}.{k}") for k, v in parts.items()}}
        if is_dataclass(value) and location_of(type(value)):
            parts = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
            packed = {k: self.pack(v, f"{name}.{k}") for k, v in parts.items()}
            return {"record": location_of(type(value)), "fields": packed}
        if hasattr(value, "fit") and hasattr(value, "predict") and location_of(type(value)):
            return {"head": packed_head(value, self, name)}
        msg = (
            f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be saved: heads keep "
            "arrays, numbers, words, dataclasses of tissuary, or other heads in what ends in _, and networks in "
            "`modules_`, which `build` makes"
        )
        raise HeadError(msg)

    def _array(self, value: NDArray[Any] | np.generic, name: str) -> dict[str, Any]:
        array = np.asarray(value)
        if array.dtype.kind == "U":
            return {"strings": array.reshape(-1).tolist(), "shape": list(array.shape)}
        if array.dtype.kind not in "fiub":
            msg = f"{name} is an array of {array.dtype}, which cannot be saved: heads keep numbers and words"
            raise HeadError(msg)
        turned = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        while name in self.arrays:
            name += "+"
        self.arrays[name] = np.array(array.T if turned else array, order="C")
        words: dict[str, Any] = {"array": name}
        if turned:
            words["turned"] = True
        if isinstance(value, np.generic):
            words["scalar"] = True
        return words


def unpack(words: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """The value that `Packer.pack` made JSON of.

    Raises
    ------
    HeadError
        If it is of no kind that is known, or names a class that this version lacks.
    """
    if isinstance(words, list):
        return [unpack(one, arrays) for one in words]
    if not isinstance(words, dict):
        return words
    kind = next(iter(words))
    if kind not in READERS:
        msg = f"a saved head with a value of kind {kind!r}; this version knows {', '.join(READERS)}"
        raise HeadError(msg)
    return READERS[kind](words, arrays)


def _array(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    if words["array"] not in arrays:
        msg = f"a saved head without its array {words['array']}: the two files do not belong together"
        raise HeadError(msg)
    array = arrays[words["array"]]
    if words.get("scalar"):
        return array[()]
    return array.T if words.get("turned") else array


def _tensor(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(unpack(words["tensor"], arrays)))


def _estimator(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    name = words["estimator"]
    if name not in ESTIMATORS:
        msg = f"a saved head with scikit-learn's {name}; this version knows {', '.join(ESTIMATORS)}"
        raise HeadError(msg)
    made = getattr(importlib.import_module(ESTIMATORS[name]), name)(**unpack(words["parameters"], arrays))
    for attribute, value in unpack(words["fitted"], arrays).items():
        setattr(made, attribute, value)
    return made


def _record(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    cls = class_at(words["record"])
    given = {name: unpack(value, arrays) for name, value in words["fields"].items()}
    if not is_dataclass(cls) or set(given) - {one.name for one in fields(cls) if one.init}:
        msg = f"a saved head with a {words['record']} of other fields: it was saved by another version of tissuary"
        raise HeadError(msg)
    return cls(**given)


def _head(words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:

    return restored_head(words["head"], arrays)


READERS: dict[str, Any] = {
    "float": lambda words, _: float(words["float"]),
    "tuple": lambda words, arrays: tuple(unpack(one, arrays) for one in words["tuple"]),
    "pairs": lambda words, arrays: {unpack(key, arrays): unpack(one, arrays) for key, one in words["pairs"]},
    "strings": lambda words, _: np.array(words["strings"], dtype=np.str_).reshape(words["shape"]),
    "array": _array,
    "tensor": _tensor,
    "table": lambda words, arrays: unpacked_table(unpack(words["table"], arrays)),
    "estimator": _estimator,
    "record": _record,
    "head": _head,
}
"""How each kind of value is read, by the first word of its JSON."""


def location_of(cls: type) -> str | None:
    """Where a class of heads or store lives, as "heads.linear.closed_form:RidgePath"; None of any other class."""
    location = f"{cls.__module__.removeprefix(f'{ROOT}.')}:{cls.__qualname__}"
    return location if cls.__module__.startswith(f"{ROOT}.") and LOCATION.fullmatch(location) else None


def class_at(location: str) -> type:
    """The class of heads or store at a location.

    Raises
    ------
    HeadError
        If there is none in this version of tissuary.
    """
    match = LOCATION.fullmatch(location)
    msg = f"a saved head needs {location}, which this version of tissuary lacks: load it with the version that saved it"
    if match is None:
        raise HeadError(msg)
    try:
        module, name = present_location(match["module"], match["name"])
        cls = getattr(importlib.import_module(f"{ROOT}.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise HeadError(msg) from error
    if not inspect.isclass(cls) or location_of(cls) != f"{module}:{name}":
        raise HeadError(msg)
    return cls


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
