"""The backbone record: everything about a frozen encoder that is not its weights, as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ...store.errors import BackboneError, InvalidNameError
from ...store.naming import FeatureKey
from .golden import Golden

Loader = Literal["embedded", "timm", "transformers"]
Resize = Literal["none", "bilinear", "bicubic"]
Pooling = Literal["global average", "cls", "cls+mean", "model"]
Precision = Literal["fp32", "fp16", "bf16"]

RANDOM_SUFFIX = "+random0"
"""Appended to the key of an architecture that was built with random weights (of seed 0)."""


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """A frozen encoder.

    Attributes
    ----------
    key
        The part of a feature key before the `@`: `<backbone>[.<pooling>]`.
    loader
        Who builds the architecture.
    architecture
        Its name there.
    architecture_options
        Options of the constructor; classes such as `SwiGLUPacked` are given by name.
    hub_id, revision
        Where the weights lie on the hub, and the commit that is meant.
    weights
        Local weights file.
    input_px
        Side of the input in pixels.
    crop_from_px
        Side a patch is resized to before its central `input_px` are cut; None: `input_px`, nothing is cut.
    resize
        Interpolation, antialiased; "none" still resizes (bilinear) a patch of another size.
    mean, std
        Of the three channels, for pixels scaled to 0..1.
    pooling
        "global average" of the last feature map, "cls", "cls+mean" (class token beside the mean of the patch tokens),
        or "model" for the output of the model itself without its classifier.
    dim
        Length of the embedding.
    token_grid
        Rows and columns of patch tokens, where there are any.
    prefix_tokens
        Tokens before the patch tokens: class token and registers.
    precision
        Arithmetic of the forward pass on a GPU.
    version
        Of an embedded algorithm; raised with every change of its numbers.
    golden
        A known input and output, verified whenever weights are loaded.
    """

    key: str
    loader: Loader
    architecture: str
    architecture_options: dict[str, Any] = field(default_factory=dict)
    hub_id: str | None = None
    revision: str | None = None
    weights: str | None = None
    input_px: int
    crop_from_px: int | None = None
    resize: Resize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pooling: Pooling
    dim: int
    token_grid: tuple[int, int] | None = None
    prefix_tokens: int = 0
    precision: Precision = "fp32"
    licence: str
    gated: bool = False
    version: str = "1"
    golden: Golden | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_choices(self)
        _check_values(self)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data, to be stored beside the features; the weights by their file name only."""
        plain = {name: _plain(value) for name, value in asdict(self).items() if name != "golden"}
        plain["weights"] = Path(self.weights).name if self.weights else None
        return plain

    def to_json(self) -> str:
        """The text of a record file."""
        golden = {} if self.golden is None else {"golden": self.golden.to_dict()}
        return json.dumps({"record": self.to_dict(), **golden}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, source: str = "the text") -> BackboneRecord:
        """Read a record file's text: a bare record, or `{"record": ..., "golden": ...}`.

        Raises
        ------
        BackboneError
            If it is no JSON, or a field is missing, unknown or of an unusable value; `source` names it.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"backbone record {source} is not JSON: {error}"
            raise BackboneError(msg) from error
        if not isinstance(content, dict):
            msg = f"backbone record {source} holds {type(content).__name__}, wanted an object with the record's fields"
            raise BackboneError(msg)
        wrapped = isinstance(content.get("record"), dict)
        given = dict(content["record"]) if wrapped else content
        if wrapped:
            _check_names(set(content), known={"record", "golden"}, required=set(), source=source)
        _check_names(set(given), known=_KNOWN, required=_REQUIRED, source=source)
        try:
            record = cls(**{name: _frozen(value) for name, value in given.items()})
            return replace(record, golden=Golden.from_dict(content["golden"])) if "golden" in content else record
        except BackboneError as error:
            error.add_note(f"in backbone record {source}")
            raise


def load_record(path: Path) -> BackboneRecord:
    """Read a record file; its `weights` are looked for beside it.

    Raises
    ------
    BackboneError
        If there is no such file or it is no record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"backbone record {path} cannot be read: {error}"
        raise BackboneError(msg) from error
    record = BackboneRecord.from_json(text, source=str(path))
    if record.weights is None:
        return record
    return replace(record, weights=str(path.parent / record.weights))


_KNOWN = {entry.name for entry in fields(BackboneRecord)} - {"golden"}
_REQUIRED = {
    "key", "loader", "architecture", "input_px", "resize", "mean", "std", "pooling", "dim", "licence",
}  # fmt: skip


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_names(given: set[str], *, known: set[str], required: set[str], source: str) -> None:
    missing, unknown = sorted(required - given), sorted(given - known)
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"holds the unknown {', '.join(unknown)}"] if unknown else []
        msg = f"backbone record {source} {' and '.join(said)}; known fields are {', '.join(sorted(known))}"
        raise BackboneError(msg)


def _check_key(key: Any) -> None:
    try:
        FeatureKey.parse(f"{key}@20x")
    except InvalidNameError as error:
        msg = (
            f"backbone key {key!r} reads not as <backbone>[.<pooling>] of letters, digits and _ + -, "
            "for example virchow2.cls+mean"
        )
        raise BackboneError(msg) from error


def _check_choices(record: BackboneRecord) -> None:
    hints = get_type_hints(BackboneRecord)
    for name in ("loader", "resize", "pooling", "precision"):
        value, choices = getattr(record, name), get_args(hints[name])
        if value not in choices:
            msg = f"{name} {value!r} of backbone {record.key}: choose one of {', '.join(map(repr, choices))}"
            raise BackboneError(msg)


def _check_values(record: BackboneRecord) -> None:
    """Values from a file can be of any type, whatever the annotations say."""
    for name in ("architecture", "licence", "version"):
        _demand(record, name, _is_text, "some text")
    for name in ("hub_id", "revision", "weights"):
        _demand(record, name, lambda value: value is None or _is_text(value), "some text, or null")
    for name in ("input_px", "dim"):
        _demand(record, name, _is_count, "a whole number above 0")
    for name in ("mean", "std"):
        _demand(record, name, _is_triple, "three numbers")
    _demand(record, "std", lambda value: min(value) > 0, "three numbers above 0")
    _demand(record, "architecture_options", lambda value: isinstance(value, dict), "an object")
    _demand(record, "token_grid", _is_grid, "rows and columns, two whole numbers above 0, or null")
    _demand(record, "prefix_tokens", lambda value: value == 0 or _is_count(value), "a whole number, 0 or more")
    enough = f"null, or at least input_px {record.input_px}"
    _demand(record, "crop_from_px", lambda side: side is None or (_is_count(side) and side >= record.input_px), enough)


def _demand(record: BackboneRecord, name: str, holds: Callable[[Any], bool], wanted: str) -> None:
    value = getattr(record, name)
    if not holds(value):
        msg = f"{name} {value!r} of backbone {record.key}: wanted {wanted}"
        raise BackboneError(msg)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(isinstance(v, int | float) for v in value)


def _is_grid(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value)))
