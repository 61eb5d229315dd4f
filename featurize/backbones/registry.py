"""The backbones that are known by name, one record each.

Published names stand for different vectors in different tools: input size, statistics and pooling are written out in
the records, pooling is part of the key wherever a model is used with more than one, and every other silent difference
(interpolation, crop, statistics, weights) has a key of its own. Only revisions that were seen are pinned; of the
others the commit that was loaded is recorded. Models without public weights (Atlas, Virchow2G) have no record:
`UNAVAILABLE` says why.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...store.choices import instead
from ...store.errors import BackboneError
from .models import controls as models_controls
from .models import dino as models_dino
from .models import remote as models_remote
from .models import timm_ as models_timm
from .models import transformers_ as models_transformers
from .record import BackboneRecord

BACKBONES: dict[str, BackboneRecord] = {
    record.key: record
    for models in (models_controls, models_timm, models_dino, models_transformers, models_remote)
    for record in models.MODELS
}

UNAVAILABLE = models_remote.UNAVAILABLE


def get_record(key_or_path: str | Path) -> BackboneRecord:
    """Find a backbone by name, or read the record file of another.

    Parameters
    ----------
    key_or_path
        A key of `BACKBONES`, or the path of a `.json` record.

    Raises
    ------
    BackboneError
        If it is neither, or a model that is known and cannot be had.
    """
    name = str(key_or_path)
    if name in BACKBONES:
        return BACKBONES[name]
    if name.endswith(".json"):
        return load_record(Path(key_or_path))
    if name.lower() in UNAVAILABLE:
        msg = f"backbone {name!r} is known but cannot be used: {UNAVAILABLE[name.lower()]}"
        raise BackboneError(msg)
    poolings = [key for key in BACKBONES if key.startswith(f"{name}.")]
    meant = instead(name, list(BACKBONES)) if not poolings else f"did you mean {' or '.join(poolings)}?"
    msg = f"backbone {name!r} is not known by name and is no .json record file: {meant}"
    raise BackboneError(msg)


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
    known = BACKBONES.get(record.key)
    if known is not None and known.loader == "embedded" and record != known:
        msg = (
            f"backbone record {path} has the key {record.key!r}, which is reserved for the embedded encoder, and is "
            f"not its record: write another `key` into the file, or use --backbone {record.key} without a file"
        )
        raise BackboneError(msg)
