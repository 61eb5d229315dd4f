"""What a search index is made of, as it stands in `index.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import StoreError
from .mixing import Mixing
from .naming import UNKNOWN_PATIENT
from .option_types import check_types

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
