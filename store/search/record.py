"""What a search index is made of, as it stands in `index.json`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Ints
from ..errors import DamagedFileError, StoreError
from ..files.schema import FEATURES, features_path, open_h5
from ..naming import UNKNOWN_PATIENT
from ..option_types import check_types


@dataclass(frozen=True)
class Share:
    """Of the neighbours of the rows of a slide (or patient), how many lie on it themselves.

    Attributes
    ----------
    name
        Slide or patient.
    rows
        n_g, how many rows of the index are its.
    own
        Mean share of the k neighbours that are its own.
    expected
        (n_g - 1) / (n - 1): that share if neighbours were drawn at random among the other rows.
    """

    name: str
    rows: int
    own: float
    expected: float

    @property
    def separation(self) -> float:
        """(own - expected) / (1 - expected): 0 when mixed at random, 1 when it has no neighbour but itself."""
        return (self.own - self.expected) / (1 - self.expected) if self.expected < 1 else 0.0


@dataclass(frozen=True)
class Mixing:
    """Mixing of slides and patients among the `k` nearest neighbours of `queries` rows.

    Attributes
    ----------
    slide, patient
        Means over all rows: those of `slides` and `patients`, weighted by their rows.
    compared
        Separation of slides by whose statistics standardise the features, all on the same sample of rows, which is also
        what is searched; empty where there is one slide, or slides were added since.
    compared_rows
        How many rows the sample has.
    """

    k: int
    queries: int
    slide: Share
    patient: Share
    slides: tuple[Share, ...]
    patients: tuple[Share, ...]
    compared: dict[str, float] = field(default_factory=dict)
    compared_rows: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Mixing:
        """Read what `dataclasses.asdict` and JSON made of it."""
        return cls(
            k=values["k"],
            queries=values["queries"],
            slide=Share(**values["slide"]),
            patient=Share(**values["patient"]),
            slides=tuple(Share(**one) for one in values["slides"]),
            patients=tuple(Share(**one) for one in values["patients"]),
            compared=values.get("compared", {}),
            compared_rows=values.get("compared_rows", 0),
        )


def mixing(
    neighbours: Ints, queries: Ints, *, slide: Ints, slide_ids: Sequence[str], patient_ids: Sequence[str]
) -> Mixing:
    """Compare who the neighbours are with who they would be if slides did not matter.

    Parameters
    ----------
    neighbours
        (m, k) rows of the index, the query itself not among them; -1 where there are fewer.
    queries
        (m,) rows of the index, from every slide that is to be reported on.
    slide
        (n,) slide number of each row of the index.
    slide_ids, patient_ids
        (n_slides,) names.
    """
    names, patient_of = np.unique(np.array(patient_ids), return_inverse=True)
    patient = patient_of[slide]
    slides = _shares(neighbours, queries, slide, list(slide_ids))
    patients = _shares(neighbours, queries, patient, names.tolist())
    return Mixing(
        k=int(neighbours.shape[1]),
        queries=len(queries),
        slide=_mean("all slides", slides),
        patient=_mean("all patients", patients),
        slides=slides,
        patients=patients,
    )


def sample_rows(slide: Ints, n: int, *, least: int = 4, seed: int = 0) -> NDArray[np.int64]:
    """About n rows, sorted, from each slide in proportion to its rows but at least `least` where it has them."""
    rng = np.random.default_rng(seed)
    chosen = []
    for number in range(int(slide.max(initial=-1)) + 1):
        rows = np.flatnonzero(slide == number)
        wanted = min(len(rows), max(least, round(n * len(rows) / len(slide))))
        chosen.append(np.sort(rng.choice(rows, size=wanted, replace=False)))
    return np.concatenate([np.zeros(0, dtype=np.int64), *chosen])


def _shares(neighbours: Ints, queries: Ints, group: Ints, names: list[str]) -> tuple[Share, ...]:
    there = neighbours >= 0
    same = (group[np.maximum(neighbours, 0)] == group[queries][:, None]) & there
    asked = there.any(axis=1)
    share = same.sum(axis=1) / np.maximum(there.sum(axis=1), 1)  # (m,)
    rows = np.bincount(group, minlength=len(names))
    found = []
    for number, name in enumerate(names):
        mine = asked & (group[queries] == number)
        if mine.any():
            expected = (rows[number] - 1) / max(len(group) - 1, 1)
            found.append(Share(name, int(rows[number]), float(share[mine].mean()), float(expected)))
    return tuple(found)


def _mean(name: str, shares: tuple[Share, ...]) -> Share:
    rows = np.array([one.rows for one in shares], dtype=np.float64)
    weight = rows / max(rows.sum(), 1.0)
    own = sum(w * one.own for w, one in zip(weight, shares, strict=True))
    expected = sum(w * one.expected for w, one in zip(weight, shares, strict=True))
    return Share(name, int(rows.sum()), float(own), float(expected))


SHA256 = re.compile("[0-9a-f]{64}")

METRICS = ("cosine", "ip")
KINDS = ("auto", "exact", "ivf")
STANDARDISE = ("cohort", "slide", "none")


@dataclass(frozen=True)
class BuildOptions:
    """How to build an index.

    Attributes
    ----------
    metric
        "cosine", or "ip": the inner product of the standardised features, without scaling them to length one.
    kind
        "exact", "ivf" (inverted lists of fp16 codes, for millions of rows), or "auto": exact up to 1,000,000 rows.
    recall
        Share of the true ten nearest that an "ivf" index is to find, measured on a sample.
    rebuild
        Build from all slides even where adding the new ones would do.
    device
        Where the neighbours of the mixing report are searched: "cpu", "cuda" or "auto".
    """

    metric: str = "cosine"
    kind: str = "auto"
    recall: float = 0.99
    rebuild: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class IvfRecord:
    """How an inverted index was set, and what that gave.

    Attributes
    ----------
    nlist
        Number of lists.
    nprobe
        Lists looked at, by what is excluded: "none", "slide", "patient".
    recall
        Recall@`k` measured with them on `queries` rows of the index, by what is excluded.
    target
        The recall asked for.
    trained_rows
        Rows that the index held when its lists were laid out.
    """

    nlist: int
    target: float
    k: int
    queries: int
    trained_rows: int
    nprobe: dict[str, int] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexRecord:
    """What an index is made of.

    Attributes
    ----------
    standardised
        Whose statistics z-scored the rows: "cohort", "slide" or "none".
    metric
        "cosine" (rows scaled to length one) or "ip".
    slide_ids, patient_ids, patches_digests, mpp
        (n_slides,) in the order of the rows: what a search compares with the store of its own day.
    features_digests, features_stamps
        (n_slides,) content of the feature files, and their size and time when it was read.
    kind
        "exact" or "ivf".
    longest
        Length of the longest vector.
    source_digests
        (n_slides,) of the images: slides of one digest are one image under several ids. Empty in indexes of an older
        version, which do not know.
    statistics_from
        Slides that the statistics of a cohort were computed from; slides added later are not among them.
    """

    name: str
    key: str
    patches: str
    fingerprint: str
    standardised: str
    metric: str
    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    patches_digests: tuple[str, ...]
    mpp: tuple[float, ...]
    features_digests: tuple[str, ...]
    features_stamps: tuple[str, ...]
    kind: str = "exact"
    longest: float = 1.0
    source_digests: tuple[str, ...] = ()
    statistics_from: tuple[str, ...] = ()
    ivf: IvfRecord | None = None
    mixing: Mixing | None = None

    @property
    def copies(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of slides that are made from one image, one tuple an image that several are made from."""
        if len(set(self.source_digests)) == len(self.source_digests):
            return ()
        found: dict[str, list[int]] = {}
        for slide, digest in enumerate(self.source_digests):
            if SHA256.fullmatch(digest):
                found.setdefault(digest, []).append(slide)
        return tuple(tuple(slides) for slides in found.values() if len(slides) > 1)

    @property
    def unknown_patients(self) -> tuple[str, ...]:
        """Slides whose patient nobody named."""
        pairs = zip(self.slide_ids, self.patient_ids, strict=True)
        return tuple(slide for slide, patient in pairs if patient.startswith(UNKNOWN_PATIENT))

    def groups(self, exclude: str) -> NDArray[np.int64]:
        """Number (n_slides,) of what is left out together: slides of one "patient", or one "slide".

        Slides of one image go together whatever they are called: a second id is no other slide, and no other patient.
        """
        group = np.arange(len(self.slide_ids))
        if exclude == "patient":
            group = np.unique(np.array(self.patient_ids), return_inverse=True)[1].astype(np.int64)
        for slides in self.copies:
            group[np.isin(group, group[list(slides)])] = group[slides[0]]
        return group

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> IndexRecord:
        """Read what `dataclasses.asdict` and JSON made of a record.

        Raises
        ------
        StoreError
            If it has other fields.
        """
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        wanted = {one.name for one in fields(cls)}
        if set(plain) | {"source_digests"} != wanted:
            other = ", ".join(sorted(set(plain) ^ wanted))
            msg = (
                f"the index of {plain.get('key')} was written by another version ({other}): run `tissuary index` again"
            )
            raise StoreError(msg)
        if plain.get("ivf"):
            plain["ivf"] = IvfRecord(**plain["ivf"])
        if plain.get("mixing"):
            plain["mixing"] = Mixing.from_json(plain["mixing"])
        return cls(**plain)


def features_digest(path: Path) -> str:
    """sha256 over the checksums of a feature file, which name its rows without reading them.

    Raises
    ------
    StoreError
        If it is no feature file, or has no checksums.
    """
    with open_h5(path, FEATURES) as file:
        if "crc32" not in file:
            msg = f"{path} holds no checksums: delete it and run featurize again"
            raise DamagedFileError(msg)
        return hashlib.sha256(np.ascontiguousarray(file["crc32"], dtype="<u4").tobytes()).hexdigest()


def features_stamp(path: Path) -> str:
    """Size and time of a feature file; empty where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def replaced_slides(root: Path, record: IndexRecord) -> tuple[str, ...]:
    """Slides whose features are no longer those that an index was made from.

    A file of the same size and time is taken to be the same, as the catalogue does; others are compared by content,
    so that a copied store keeps its indexes.
    """
    paths = [features_path(root, slide, key=record.key, patches=record.patches) for slide in record.slide_ids]
    known = zip(record.slide_ids, paths, record.features_stamps, record.features_digests, strict=True)
    return tuple(
        slide_id
        for slide_id, path, stamp, digest in known
        if features_stamp(path) != stamp and features_digest(path) != digest
    )
