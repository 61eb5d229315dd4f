"""How a backbone is loaded, and whether this machine has what builds it, told without importing any of it."""

from __future__ import annotations

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
    if record.hub_id is None:
        return "a local file"
    return f"{record.hub_id}, pinned to {record.revision}" if record.revision else f"{record.hub_id}, not pinned"
