"""The backbone record: everything about a frozen encoder that is not its weights, as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ...store.errors import BackboneError, InvalidNameError
from ...store.naming import FeatureKey
from .golden import Golden, is_count, is_number

LOADING_OPTIONS = frozenset({"cache_dir", "checkpoint_path", "exportable", "kwargs_filter", "no_jit", "scriptable"})
"""Options of timm, besides `pretrained...`, that shape no architecture: they load files or change how it is run.

A checkpoint that timm loads by itself may be a pickle that runs code, and it escapes fingerprint and strict loading.
"""

PLACING_OPTIONS = frozenset({"device", "dtype"})
"""Options of timm that say where and in which arithmetic a model lies."""


def check_names(given: set[str], *, known: set[str], required: set[str], source: str) -> None:
    """Refuse missing and unknown fields, all of them named."""
    missing, unknown = sorted(required - given), sorted(given - known)
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"holds the unknown {', '.join(unknown)}"] if unknown else []
        msg = f"backbone record {source} {' and '.join(said)}; known fields are {', '.join(sorted(known))}"
        raise BackboneError(msg)


def check_key(key: Any) -> None:
    """Refuse a key that cannot be the first part of a feature key."""
    try:
        FeatureKey.parse(f"{key}@20x")
    except InvalidNameError as error:
        msg = (
            f"backbone key {key!r} reads not as <backbone>[.<pooling>] of letters, digits and _ + -, "
            "for example virchow2.cls+mean"
        )
        raise BackboneError(msg) from error


def check_choice(record: BackboneRecord, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is none of its choices."""
    value = getattr(record, name)
    if value not in choices:
        msg = f"{name} {value!r} of backbone {record.key}: choose one of {', '.join(map(repr, choices))}"
        raise BackboneError(msg)


def check_values(record: BackboneRecord) -> None:
    """Refuse a field of an unusable type or value."""
    for name in ("architecture", "licence", "version"):
        _demand(record, name, _is_text, "some text")
    for name in ("hub_id", "revision", "hub_file", "weights", "needs", "output_licence", "note"):
        _demand(record, name, lambda value: value is None or _is_text(value), "some text, or null")
    for name in ("input_px", "dim"):
        _demand(record, name, is_count, "a whole number above 0")
    for name in ("mean", "std"):
        _demand(record, name, _is_triple, "three numbers")
    _demand(record, "std", lambda value: min(value) > 0, "three numbers above 0")
    _demand(record, "architecture_options", _is_object, "an object of plain values")
    _check_options(record)
    _demand(record, "token_grid", _is_grid, "rows and columns, two whole numbers above 0, or null")
    _demand(record, "prefix_tokens", lambda value: value == 0 or is_count(value), "a whole number, 0 or more")
    _demand(record, "native_mpp", _is_scales, "a list of numbers above 0")
    _demand(record, "tile_px", lambda value: value is None or is_count(value), "a whole number above 0, or null")
    for name in ("parameters_m", "gflops"):
        _demand(record, name, lambda value: value is None or _is_positive(value), "a number above 0, or null")
    _demand(record, "needs", lambda value: record.loader != "remote" or value is not None, "what runs a remote model")
    _demand(record, "gated", lambda value: isinstance(value, bool), "true or false")
    enough = f"null, or at least input_px {record.input_px}"
    _demand(record, "crop_from_px", lambda side: side is None or (is_count(side) and side >= record.input_px), enough)


def _check_options(record: BackboneRecord) -> None:
    """Options shape an architecture; weights come through the one reader that executes nothing."""
    names = sorted(record.architecture_options)
    loading = [name for name in names if name in LOADING_OPTIONS or name.startswith("pretrained")]
    placing = [name for name in names if name in PLACING_OPTIONS]
    if loading:
        msg = (
            f"architecture_options of backbone {record.key} hold {', '.join(loading)}, which shapes no architecture: "
            f"weights are given by `weights` in the record or --weights {record.key}=PATH; take it out"
        )
        raise BackboneError(msg)
    if placing:
        msg = (
            f"architecture_options of backbone {record.key} hold {', '.join(placing)}, which shapes no architecture: "
            "the device is given by --device and the arithmetic by `precision` in the record; take it out"
        )
        raise BackboneError(msg)


def _demand(record: BackboneRecord, name: str, holds: Callable[[Any], bool], wanted: str) -> None:
    value = getattr(record, name)
    if not holds(value):
        msg = f"{name} {value!r} of backbone {record.key}: wanted {wanted}"
        raise BackboneError(msg)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_triple(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(is_number, value))


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_scales(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_positive, value))


def _is_grid(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(is_count, value)))


def _is_object(value: Any) -> bool:
    """Whether a value is a dict that JSON can write: the fingerprint is taken from its text."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


Loader = Literal["embedded", "timm", "transformers", "custom", "remote"]
Resize = Literal["none", "bilinear", "bicubic"]
Pooling = Literal["global average", "cls", "cls+mean", "model", "projected", "attention", "pooler"]
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
        Who builds the architecture: "embedded" and "custom" (written here), "timm", "transformers", or "remote" for
        models whose code is in none of them: their records are complete, they cannot be built.
    architecture
        Its name there.
    architecture_options
        Options of the constructor; classes such as `SwiGLUPacked` are given by name. None of them loads weights.
    needs
        What runs a "remote" model: its package, or code beside its weights.
    hub_id, revision, hub_file
        Where the weights lie on the hub, the commit that is meant (of a loaded encoder: the one that was got), and
        the file there, where it is not `model.safetensors` or `pytorch_model.bin`.
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
        "global average" of the last feature map or of the patch tokens, "cls", "cls+mean" (class token beside the mean
        of the patch tokens), "projected" (into the space shared with text), "model" for the output of the model itself
        without its classifier; of remote models also "attention" (an attentional pooler) and "pooler" (their own).
    dim
        Length of the embedding.
    token_grid
        Rows and columns of patch tokens, where there are any.
    prefix_tokens
        Tokens before the patch tokens: class token and registers.
    native_mpp
        Resolutions it was trained on, um per pixel; empty where they are not known.
    tile_px
        Side of the tiles that users cut for it at the native resolution, before resizing.
    parameters_m, gflops
        Size in millions, and arithmetic of one image (two for each multiply-add), as published.
    precision
        Arithmetic of the forward pass on a GPU.
    licence, output_licence
        Terms of the weights, and what they say of features and of models trained on them.
    gated
        Whether access must be asked for.
    note
        What is not settled, or could not be verified without the weights.
    version
        Of an embedded algorithm; raised with every change of its numbers.
    golden
        A known input and output, verified whenever weights are loaded.
    """

    key: str
    loader: Loader
    architecture: str
    architecture_options: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    hub_file: str | None = None
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
    native_mpp: tuple[float, ...] = ()
    tile_px: int | None = None
    parameters_m: float | None = None
    gflops: float | None = None
    precision: Precision = "fp32"
    licence: str
    output_licence: str | None = None
    gated: bool = False
    note: str | None = None
    version: str = "1"
    golden: Golden | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        hints = get_type_hints(BackboneRecord)
        for name in ("loader", "resize", "pooling", "precision"):
            check_choice(self, name, get_args(hints[name]))
        check_values(self)

    @property
    def terms(self) -> str:
        """Licence of the weights and of what is made with them, in one line."""
        parts = (self.licence, "access must be asked for" if self.gated else None, self.output_licence)
        return "; ".join(part for part in parts if part)

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
        except (ValueError, RecursionError) as error:  # no JSON, or nested or long beyond what can be read
            msg = f"backbone record {source} is not JSON: {error}"
            raise BackboneError(msg) from error
        if not isinstance(content, dict):
            msg = f"backbone record {source} holds {type(content).__name__}, wanted an object with the record's fields"
            raise BackboneError(msg)
        wrapped = isinstance(content.get("record"), dict)
        given = dict(content["record"]) if wrapped else content
        if wrapped:
            check_names(set(content), known={"record", "golden"}, required=set(), source=source)
        check_names(set(given), known=_KNOWN, required=_REQUIRED, source=source)
        try:
            record = cls(**{name: _frozen(value) for name, value in given.items()})
            return replace(record, golden=Golden.from_dict(content["golden"])) if "golden" in content else record
        except BackboneError as error:
            error.add_note(f"in backbone record {source}")
            raise


_KNOWN = {entry.name for entry in fields(BackboneRecord)} - {"golden"}
_REQUIRED = {
    "key", "loader", "architecture", "input_px", "resize", "mean", "std", "pooling", "dim", "licence",
}  # fmt: skip


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
