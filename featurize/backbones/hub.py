"""Weights from the model hub: from the local cache where they lie there already, and always with their commit."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ...store.errors import BackboneError
from .record import BackboneRecord

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names that hub models use, the one that cannot run code first."""

HEAD = "main"
"""The hub's newest revision, which moves."""


@dataclass(frozen=True)
class HubWeights:
    """A weights file in the hub's cache, and the commit (40 hexadecimal digits) that it belongs to."""

    path: Path
    commit: str


def hub_weights(record: BackboneRecord) -> HubWeights:
    """Find a backbone's weights in the hub cache, downloaded if need be.

    Where the record pins no revision the newest is taken; a warning names the commit that was got.

    Raises
    ------
    BackboneError
        If the record names no hub model, access is not granted, the revision or the file does not exist, or there is
        neither network nor cached file.
    """
    if record.hub_id is None:
        msg = f"backbone {record.key} names neither a weights file nor a hub model; give --weights {record.key}=PATH"
        raise BackboneError(msg)
    revision = record.revision or HEAD
    names = (record.hub_file,) if record.hub_file else WEIGHT_FILES
    found = _download(record.key, hub_id=record.hub_id, revision=revision, names=names)
    if record.revision is None:
        log.warning(
            "backbone %s pins no revision of %s: the weights are those of commit %s, which is recorded",
            record.key,
            record.hub_id,
            found.commit,
        )
    return found


def _in_cache(path: Path, *, name: str) -> HubWeights:
    """The cache keeps the files of a commit in `snapshots/<commit>/`."""
    folder = path.parents[len(Path(name).parts) - 1]
    if not re.fullmatch(r"[0-9a-f]{40}", folder.name):
        msg = f"{path} lies in no folder of the hub's cache, so its commit is not known; give it as a local file"
        raise BackboneError(msg)
    return HubWeights(path, folder.name)


def _download(key: str, *, hub_id: str, revision: str, names: tuple[str, ...]) -> HubWeights:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        RemoteEntryNotFoundError,
    )

    cause: Exception | None = None
    for cache_only in (False, True):  # the hub, and where it does not answer the cache
        for name in names:
            try:
                path = Path(hf_hub_download(hub_id, name, revision=revision, local_files_only=cache_only))
                return _in_cache(path, name=name)
            except RemoteEntryNotFoundError as error:  # the next name may be there
                cause = error
            except HFValidationError as error:
                raise _refused(key, hub_id, revision=revision, names=names, cause=error) from error
            except HfHubHTTPError as error:  # refused, say for want of access; what is in the cache may still be used
                cause = error
                break
            except (EntryNotFoundError, HTTPError, OSError) as error:
                cause = cause or error
                if not cache_only:
                    break  # asking again would take its long time again
    raise _refused(key, hub_id, revision=revision, names=names, cause=cause) from cause


def _refused(key: str, hub_id: str, *, revision: str, names: tuple[str, ...], cause: Exception | None) -> BackboneError:
    return BackboneError(
        f"backbone {key}: no weights of {hub_id} at revision {revision[:12]}: {_why(cause, hub_id, names)}. "
        f"Or give a local file: --weights {key}=PATH"
    )


def _why(cause: Exception | None, hub_id: str, names: tuple[str, ...]) -> str:
    """Cause and mend, in words."""
    from huggingface_hub import constants, errors

    files = " and ".join(names)
    page = f"https://huggingface.co/{hub_id}"
    match cause:
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return (
                f"{files}: not in the cache ({constants.HF_HUB_CACHE}), and offline mode (HF_HUB_OFFLINE=1) asks no hub"
            )
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return f"{files}: not in the cache ({constants.HF_HUB_CACHE}), and the hub cannot be reached"
        case errors.EntryNotFoundError():
            return f"{files}: neither in the cache nor among the files of {page}"
        case errors.GatedRepoError():
            return f"access is gated: ask for it on {page} and log in (`hf auth login`)"
        case errors.RevisionNotFoundError():
            return f"the hub has no such revision; commits are listed on {page}/commits"
        case errors.RepositoryNotFoundError():
            return "the hub has no such model, or hides it from this account (`hf auth login`)"
        case errors.HFValidationError():
            return f"the hub takes no such name or revision ({cause})"
    return f"the hub cannot be reached ({type(cause).__name__})"
