"""Weights from the model hub: at a pinned revision, from the local cache where they lie there already."""

from __future__ import annotations

from pathlib import Path

from ...store.errors import BackboneError
from .record import BackboneRecord

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names that hub models use, the one that cannot run code first."""


def hub_weights(record: BackboneRecord) -> Path:
    """Path of a backbone's weights in the hub cache, downloaded if need be.

    Raises
    ------
    BackboneError
        If the record pins no revision, access is not granted, or there is neither network nor cached file.
    """
    if record.hub_id is None:
        msg = f"backbone {record.key} names neither a weights file nor a hub model; give --weights {record.key}=PATH"
        raise BackboneError(msg)
    if record.revision is None:
        msg = (
            f"backbone {record.key}: no revision of {record.hub_id} is pinned, and an unpinned model can change under "
            f"one name. Give its weights as a file (--weights {record.key}=PATH), or a record file "
            "(--backbone RECORD.json) whose `revision` is the commit you want"
        )
        raise BackboneError(msg)
    return _download(record.key, hub_id=record.hub_id, revision=record.revision)


def _download(key: str, *, hub_id: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause: Exception | None = None
    why = ""
    for name in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(hub_id, name, revision=revision))
        except EntryNotFoundError as error:  # also: not in the cache and no network
            cause, why = error, f"{' and '.join(WEIGHT_FILES)} are neither in the cache nor to be had from the hub"
        except GatedRepoError as error:
            cause, why = (
                error,
                f"access is gated: ask for it on the model's page ({hub_id}) and log in (`hf auth login`)",
            )
            break
        except RevisionNotFoundError as error:
            cause, why = error, "the hub has no such revision"
            break
        except RepositoryNotFoundError as error:
            cause, why = error, "the hub has no such model, or hides it from this account (`hf auth login`)"
            break
        except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            cause, why = error, f"the hub cannot be reached ({type(error).__name__})"
            break
    msg = (
        f"backbone {key}: no weights of {hub_id} at revision {revision[:12]}: {why}. "
        f"Or give a local file: --weights {key}=PATH"
    )
    raise BackboneError(msg) from cause
