"""The backbone record: everything about a frozen encoder that is not its weights, as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ...store.errors import BackboneError
from .checks import check_choice, check_key, check_names, check_values
from .golden import Golden

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


def load_record(path: Path) -> BackboneRecord:
    """Read a record file; its `weights` are looked for beside it.

    Raises
    ------
    BackboneError
        If there is no such file, it is no record, or it takes the name of an embedded encoder.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"backbone record {path} cannot be read: {error}"
        raise BackboneError(msg) from error
    record = BackboneRecord.from_json(text, source=str(path))
    _check_reserved(record, path)
    if record.weights is None:
        return record
    return replace(record, weights=str(path.parent / record.weights))


def _check_reserved(record: BackboneRecord, path: Path) -> None:
    """Stores and controls know the embedded encoders by name: a file may repeat them, never stand in for them."""
    from .registry import BACKBONES  # made of records, so not to be had when this module loads

    known = BACKBONES.get(record.key)
    if known is not None and known.loader == "embedded" and record != known:
        msg = (
            f"backbone record {path} has the key {record.key!r}, which is reserved for the embedded encoder, and is "
            f"not its record: write another `key` into the file, or use --backbone {record.key} without a file"
        )
        raise BackboneError(msg)


_KNOWN = {entry.name for entry in fields(BackboneRecord)} - {"golden"}
_REQUIRED = {
    "key", "loader", "architecture", "input_px", "resize", "mean", "std", "pooling", "dim", "licence",
}  # fmt: skip


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
