"""The backbone record: everything about a frozen encoder that is not its weights, as data."""

from __future__ import annotations

import json
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
        _check_numbers(self)

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


def _check_numbers(record: BackboneRecord) -> None:
    for name in ("mean", "std"):
        value = getattr(record, name)
        numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != 3 or (name == "std" and min(value) <= 0):
            msg = (
                f"{name} {value!r} of backbone {record.key}: wanted three numbers{', above 0' if name == 'std' else ''}"
            )
            raise BackboneError(msg)
    sizes = {"input_px": record.input_px, "dim": record.dim, "crop_from_px": record.crop_from_px or record.input_px}
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            msg = f"{name} {value!r} of backbone {record.key}: wanted a whole number above 0"
            raise BackboneError(msg)
    if sizes["crop_from_px"] < record.input_px:
        msg = f"crop_from_px {record.crop_from_px} of backbone {record.key}: wanted at least input_px {record.input_px}"
        raise BackboneError(msg)
    grid = record.token_grid
    if grid is not None and not (isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(v, int) for v in grid)):
        msg = f"token_grid {grid!r} of backbone {record.key}: wanted two whole numbers, rows and columns, or null"
        raise BackboneError(msg)
    if not isinstance(record.architecture_options, dict):
        msg = f"architecture_options {record.architecture_options!r} of backbone {record.key}: wanted an object"
        raise BackboneError(msg)
