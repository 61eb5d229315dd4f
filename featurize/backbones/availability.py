"""How a backbone is loaded, and whether this machine has what builds it, told without importing any of it."""

from __future__ import annotations

import re
from importlib.util import find_spec

from .record import BackboneRecord

_LIBRARIES = {
    "embedded": ("torch",),
    "timm": ("torch", "timm"),
    "transformers": ("torch", "transformers"),
    "custom": ("torch", "timm"),
}

_INSTALL = {"transformers": 'pip install "tissuary[transformers]"'}


def missing(record: BackboneRecord) -> str | None:
    """What this machine lacks to build a backbone, or None where it can be built."""
    if record.loader == "remote":
        return record.needs
    lacking = [name for name in _LIBRARIES[record.loader] if find_spec(name) is None]
    return ", ".join(_INSTALL.get(name, f"pip install {name}") for name in lacking) or None


def source(record: BackboneRecord) -> str:
    """Where its weights come from, and at which commit."""
    if record.loader == "embedded":
        return "without weights"
    if record.weights is not None or record.hub_id is None:
        return record.weights or "a local file"
    return f"{record.hub_id}, pinned to {record.revision}" if is_pinned(record) else f"{record.hub_id}, not pinned"


def is_pinned(record: BackboneRecord) -> bool:
    """Whether its revision is a commit, and not a branch or tag that can move."""
    return record.revision is not None and re.fullmatch(r"[0-9a-f]{40}", record.revision) is not None
