"""Weights from the model hub: from the local cache where they lie there already, and always with their commit."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...store.errors import BackboneError
from .record import BackboneRecord

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names that hub models use, the one that cannot run code first."""

ANSWER_S = 5.0
"""For the hub to say anything, before it counts as out of reach."""

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


def check_within_reach(record: BackboneRecord) -> None:
    """Refuse a backbone whose weights are neither in the cache nor to be had, before seconds go into its architecture.

    Raises
    ------
    BackboneError
        Saying how to fetch the weights elsewhere.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if record.hub_id is None:
        return
    names, revision = (record.hub_file,) if record.hub_file else WEIGHT_FILES, record.revision or HEAD
    try:
        cached = any(isinstance(try_to_load_from_cache(record.hub_id, name, revision=revision), str) for name in names)
    except HFValidationError:  # a name that no hub has, which the download refuses
        return
    if not cached and not _hub_answers():
        _download(record.key, hub_id=record.hub_id, revision=revision, names=names)  # which finds nothing, and says so


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
    for cache_only in _places(revision):
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


def _places(revision: str) -> Iterator[bool]:
    """Whether to look in the cache alone, in turn: a commit is first looked for there, and a silent hub is not asked.

    huggingface_hub would ask it five times over, waiting longer each time.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        yield True
        if _hub_answers():
            yield False
    else:
        if _hub_answers():
            yield False
        yield True


def _hub_answers() -> bool:
    """Whether the hub says anything at all within `ANSWER_S`, be it that the page does not exist."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(_asked(constants.ENDPOINT)), daemon=True)
    asking.start()  # looking a name up cannot be given a time
    asking.join(ANSWER_S)
    return answers == [True]


def _asked(endpoint: str) -> bool:
    """Whether a request gets an answer, by the machine's proxies."""
    import ssl
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=ANSWER_S):
            return True
    except HTTPError:
        return True
    except URLError as error:  # certificates may be known to huggingface_hub alone
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):
        return False


def _refused(key: str, hub_id: str, *, revision: str, names: tuple[str, ...], cause: Exception | None) -> BackboneError:
    why = _why(cause, hub_id, revision, names)
    then = "Then" if "hf download" in why else "Or"
    return BackboneError(
        f"backbone {key}: no weights of {hub_id} at revision {revision[:12]}: {why}. "
        f"{then} give a local file: --weights {key}=PATH"
    )


def _why(cause: Exception | None, hub_id: str, revision: str, names: tuple[str, ...]) -> str:
    """Cause and mend, in words."""
    from huggingface_hub import constants, errors

    files = " and ".join(names)
    page = f"https://huggingface.co/{hub_id}"
    at = "" if revision == HEAD else f" --revision {revision}"
    fetch = f"Fetch it where there is a network: `hf download {hub_id} {names[0]}{at}`"
    match cause:
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            offline = "offline mode (HF_HUB_OFFLINE=1) asks no hub"
            return f"{files}: not in the cache ({constants.HF_HUB_CACHE}), and {offline}. {fetch}"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            reach = f"the hub cannot be reached ({constants.ENDPOINT} does not answer)"
            return f"{files}: not in the cache ({constants.HF_HUB_CACHE}), and {reach}. {fetch}"
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
