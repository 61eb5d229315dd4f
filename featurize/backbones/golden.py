"""A known input and what a backbone must make of it: the proof that options and weights belong together.

Strict loading cannot give that proof: an epsilon or a padding rule has no tensor of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...store.arrays import Floats, Pixels
from ...store.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

RAMP = "R = x*255//223, G = y*255//223, B = ((x+y)*7) % 256"
"""The test image that this version can draw, as golden records describe it."""


@dataclass(frozen=True)
class Golden:
    """Output of a backbone on the ramp image, in fp32.

    Attributes
    ----------
    input
        Description of the image; must hold `RAMP`.
    first_16
        First values of the embedding.
    sum, norm
        Sum and Euclidean norm of the whole embedding, given to four digits after the point.
    nonzero
        How many values are not zero (where the last layer is a ReLU), or None.
    tolerance
        Largest absolute difference of a value, as the text starts with ("1e-4 absolute, fp32").
    """

    input: str
    first_16: tuple[float, ...]
    sum: float | None = None
    norm: float | None = None
    nonzero: int | None = None
    tolerance: str = "1e-4 absolute, fp32"
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"first_16": list(self.first_16)}

    @classmethod
    def from_dict(cls, given: Any) -> Golden:
        """Read the `golden` of a record file.

        Raises
        ------
        BackboneError
            If a field is missing, unknown or of an unusable value, or the image is one that cannot be drawn.
        """
        if not isinstance(given, dict):
            msg = f"golden of a backbone record: {given!r}, wanted an object with {', '.join(_FIELDS)}"
            raise BackboneError(msg)
        missing, unknown = sorted({"input", "first_16"} - set(given)), sorted(set(given) - set(_FIELDS))
        if missing or unknown:
            found = [f"lacks {', '.join(missing)}"] if missing else []
            found += [f"holds the unknown {', '.join(unknown)}"] if unknown else []
            msg = f"golden of a backbone record {' and '.join(found)}; its fields are {', '.join(_FIELDS)}"
            raise BackboneError(msg)
        for name, value in given.items():
            holds, wanted = _FIELDS[name]
            if not holds(value):
                msg = f"golden of a backbone record: {name} {value!r}, wanted {wanted}"
                raise BackboneError(msg)
        return cls(**{**given, "first_16": tuple(map(float, given["first_16"]))})

    @property
    def tolerance_absolute(self) -> float:
        """Largest absolute difference of one value."""
        return _leading_number(self.tolerance)


def _leading_number(text: str) -> float:
    """The number that a text starts with; 0 where there is none."""
    match = re.match(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?(?![\w.])", text)
    return float(match.group()) if match else 0.0


def _is_start(value: Any) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= 16 and all(map(is_number, value))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input": (lambda value: isinstance(value, str) and RAMP in value, f"an input with {RAMP!r}"),
    "first_16": (_is_start, "one to sixteen numbers"),
    "sum": (lambda value: value is None or is_number(value), "a number, or null"),
    "norm": (lambda value: value is None or (is_number(value) and value >= 0), "a number, 0 or more, or null"),
    "nonzero": (lambda value: value is None or is_count(value), "a whole number above 0, or null"),
    "tolerance": (
        lambda value: isinstance(value, str) and 0 < _leading_number(value) < 1,
        "text that starts with a number between 0 and 1, such as '1e-4 absolute, fp32'",
    ),
    "note": (lambda value: isinstance(value, str), "text"),
}


def ramp_image() -> Pixels:
    """The golden image, uint8 (224, 224, 3)."""
    y, x = np.mgrid[:224, :224]
    return np.stack([x * 255 // 223, y * 255 // 223, ((x + y) * 7) % 256], axis=-1).astype(np.uint8)


def verify_golden(key: str, golden: Golden, *, encode: Callable[[Tensor], Tensor]) -> None:
    """Compare what an encoder makes of the ramp image with what it must make of it.

    Parameters
    ----------
    encode
        uint8 (1, 3, 224, 224) -> (1, dim), in fp32.

    Raises
    ------
    BackboneError
        If they differ: weights and options do not belong together.
    """
    import torch

    image = torch.from_numpy(ramp_image()).permute(2, 0, 1)[None]  # (h, w, 3) -> (1, 3, h, w)
    values: Floats = encode(image)[0].double().numpy()  # (dim,)
    wanted = np.asarray(golden.first_16)
    off = float(np.abs(values[: len(wanted)] - wanted).max()) if len(values) >= len(wanted) else np.inf
    faults = (
        [f"a value is {off:.2g} off (tolerance {golden.tolerance})"] if not off <= golden.tolerance_absolute else []
    )
    # Of the whole vector only rounded sums are known: one part in 1e4 of their size is allowed.
    for name, wanted_sum, got in (
        ("sum", golden.sum, float(values.sum())),
        ("norm", golden.norm, float(np.sqrt(values @ values))),
    ):
        if wanted_sum is not None and not abs(got - wanted_sum) <= 1e-4 * max(1.0, abs(wanted_sum)):
            faults.append(f"{name} is {got:.4f}, wanted {wanted_sum:.4f}")
    count = int(np.count_nonzero(values))
    if golden.nonzero is not None and count != golden.nonzero:
        faults.append(f"{count} values are not zero, wanted {golden.nonzero}")
    if faults:
        msg = (
            f"backbone {key} fails its golden vector: {'; '.join(faults)}. The weights were loaded, but architecture "
            "options, transform or pooling are not those they were made with: correct the record, or take the weights "
            "that belong to it."
        )
        raise BackboneError(msg)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
