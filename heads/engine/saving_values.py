"""What heads learn as JSON and named arrays, and back: no pickle, and no class from outside this package."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError
from ...store.table import Table
from .saving_table import packed_table, unpacked_table
from .saving_trees import FlatBoosting, FlatForest

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
            from .saving_state import packed_head

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
    from .saving_state import restored_head

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
    """Where a class of heads or store lives, as "heads.closed_form:RidgePath"; None of any other class."""
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
        cls = getattr(importlib.import_module(f"{ROOT}.{match['module']}"), match["name"])
    except (ImportError, AttributeError) as error:
        raise HeadError(msg) from error
    if not inspect.isclass(cls) or location_of(cls) != location:
        raise HeadError(msg)
    return cls
