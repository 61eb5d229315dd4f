"""One feature key holds one fingerprint in a store: checked before features are computed, and again as they begin.

A job asks twice. Before its first slide it compares what it would write with one file of each key, so that it is
refused at once. When it begins the first file of a key it compares again under a lock of that key, unfinished files of
other jobs included, so that of two jobs that start on an empty store only one goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DamagedFileError, FingerprintError
from ..naming import DENSITY
from .features import FeatureHeader, read_features
from .journal import JOURNAL, read_identity
from .lock import is_locked, key_lock

_UNSAID = ("licence", "file", "file_sha256", "declared", "details")
"""Fields of a record that say nothing of the encoder."""


@dataclass(frozen=True)
class KeyHolder:
    """A feature file, whole or in the making, that says what its key holds.

    Attributes
    ----------
    path
        Of the file, or of what it is to become.
    record
        The encoder's record, as JSON values.
    """

    path: Path
    fingerprint: str
    record: dict[str, Any]
    whole: bool = True


class KeyFingerprints:
    """Fingerprints that the feature keys of a store hold; each key of a patch set is looked up once.

    What a patch set holds decides over what is added to it, else what any other holds: in stores of an older version
    one key may hold other encoders in other patch sets. Of the density control, which every job makes and no option
    renames, each patch set is a key of its own.

    Parameters
    ----------
    root
        Folder of the store; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, str], KeyHolder] = {}

    def check(
        self,
        key: str,
        fingerprints: Collection[str],
        record: Mapping[str, Any],
        *,
        slide_id: str = "",
        patches: str = "*",
    ) -> None:
        """Refuse to add features to a key that holds those of another encoder.

        Parameters
        ----------
        fingerprints
            Those that the new features can have; how a slide's pixels are read is part of them.
        record
            The new encoder's record, to say what differs.
        slide_id
            Slide of the new features; what a former job left unfinished of it is replaced, and does not count.
        patches
            Their patch set; "*" where it is not known yet.

        Raises
        ------
        FingerprintError
            If the key holds features with another fingerprint.
        StoreError
            If a file of the key is foreign, or of a newer version.
        """
        at = (patches, key)
        found = [self._known[at]] if at in self._known else _holders(self._root, key, patches, slide_id=slide_id)
        if not found:
            return
        same = next((holder for holder in found if holder.fingerprint in fingerprints), None)
        if same is None:
            raise other_encoder(found[0], min(fingerprints), record)
        self._known[at] = same

    @contextmanager
    def adding(self, headers: Mapping[str, FeatureHeader], *, patches: str) -> Iterator[None]:
        """Check the keys of a slide's new files, by key, and hold off other jobs while the block begins the files.

        Parameters
        ----------
        patches
            Their patch set.

        Raises
        ------
        FingerprintError
            If a key holds, or another job is writing, features with another fingerprint.
        """
        with ExitStack() as stack:
            for key in sorted(headers):  # sorted: two jobs never wait for one another
                if (patches, key) not in self._known:
                    stack.enter_context(key_lock(self._root, key))
            for key, header in headers.items():
                self.check(key, {header.fingerprint}, header.record, slide_id=header.slide_id, patches=patches)
            yield


def other_encoder(found: KeyHolder, fingerprint: str, record: Mapping[str, Any]) -> FingerprintError:
    """The error of features that do not belong beside those found."""
    name, folder = found.path.parent.name, found.path.parent
    state = "is in the store" if found.whole else "is being written by another job"
    way = "Store it beside the other with `--as NAME`"
    if _is_density(name):
        way = f"`--as` does not rename {DENSITY}, so use another store for these slides"
    return FingerprintError(
        f"{name} of slide {found.path.stem} {state} with fingerprint {_short(found.fingerprint)}, this encoder's is "
        f"{_short(fingerprint)} ({_difference(found.record, record)}), and one key holds one encoder. "
        f"{way}, or delete the folder of the old features, {folder}."
    )


def _is_density(key: str) -> bool:
    return key.startswith(f"{DENSITY}@")


def _holders(root: Path, key: str, patches: str, *, slide_id: str) -> list[KeyHolder]:
    """What says which encoder a key has in a patch set: its own holder there, else those in the other patch sets."""
    folders = sorted(root.glob(f"features/{patches if _is_density(key) else '*'}/{key}"))
    own = root / "features" / patches / key
    found = {folder: holder for folder in folders if (holder := _holder(root, folder, slide_id=slide_id)) is not None}
    return [found[own]] if own in found else list(found.values())


def _holder(root: Path, folder: Path, *, slide_id: str) -> KeyHolder | None:
    """The first readable feature file in the folder of a key, or one that a running job is making there."""
    names = sorted(os.listdir(folder))  # noqa: PTH208
    for name in names:
        if name.startswith(".") or not name.endswith(".h5"):
            continue
        try:
            header = read_features(folder / name).header
        except DamagedFileError:  # it is written again with its own slide
            continue
        return KeyHolder(folder / name, header.fingerprint, header.record)
    for name in (name[1:].removesuffix(f".{JOURNAL}") for name in names if name.endswith(f".{JOURNAL}")):
        path = folder / name
        identity = read_identity(path)
        if identity is not None and path.stem != slide_id and is_locked(root, path.stem):
            record = json.loads(identity["record"])
            return KeyHolder(path, str(identity["fingerprint"]), record, whole=False)
    return None


def _short(fingerprint: str) -> str:
    """The start of a fingerprint; of a declared one, its encoder's name too."""
    head, _, digest = fingerprint.rpartition(":")
    return f"{head}:{digest[:12]}" if head else digest[:12]


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two records."""
    old, new = _flat(found), _flat(wanted)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if not names:
        return "the records agree: weights, view or the way pixels are read differ"
    said = [f"{name} {_brief(old.get(name))} there, {_brief(new.get(name))} here" for name in names[:3]]
    return "; ".join(said) + (f"; {len(names) - 3} more fields differ" if len(names) > 3 else "")


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    parts = {**record, **(record["imported"] if isinstance(record.get("imported"), dict) else {})}
    return {name: value for name, value in parts.items() if name not in (*_UNSAID, "imported")}


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
