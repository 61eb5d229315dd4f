"""What a predicted slide shares with the slides that trained the run: on those a map shows a fit, not a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...store.files.slide import SlideRecord
from ...store.naming import look_alike_patients, patient_name
from ...store.search.record import SHA256

Overlap = Literal["slide", "image", "name", "patient", "unknown patient", "none", "not recorded"]

TRAINED: tuple[Overlap, ...] = ("slide", "image", "name", "patient")
"""Overlaps under which no measure of unlike tissue may reassure: the tissue itself, or its patient's, was learnt."""

NAMED = 3
"""Slides that a sentence names; the record has them all."""


@dataclass(frozen=True)
class TrainingOverlap:
    """What a slide has in common with the training slides of a run.

    Attributes
    ----------
    kind
        "slide": it trained the run. "image": its image did, under another slide id. "name": a slide of its name did,
        made from another file. "patient": another slide of its patient did. "unknown patient": that cannot be told.
        "none". "not recorded": the run does not say which slides trained it.
    slides
        The training slides concerned.
    words
        The same as a sentence.
    """

    kind: Overlap
    slides: tuple[str, ...]
    words: str

    @property
    def trained(self) -> bool:
        """Whether the head learnt from this slide, or from this patient."""
        return self.kind in TRAINED

    def entries(self) -> dict[str, Any]:
        """What AnnData keeps of it in `uns`."""
        return {"kind": self.kind, "slides": np.array(self.slides, dtype=object), "words": self.words}


def training_overlap(record: Mapping[str, Any], slide: SlideRecord) -> TrainingOverlap:
    """Compare a slide with the training slides of a saved head, by image first, then by name, then by patient.

    Parameters
    ----------
    record
        `SavedHead.record`: `training` has `slides`, `patients` and, of runs made since they are kept,
        `source_digests`.
    """
    training = record.get("training") or {}
    names = tuple(map(str, training.get("slides", ())))
    patients = tuple(map(str, training.get("patients", ())))
    if not names or len(patients) != len(names):
        return TrainingOverlap("not recorded", (), "it is not known which slides trained this run")
    digests = tuple(map(str, training.get("source_digests", ()))) or ("",) * len(names)
    return (
        _of_image(slide, names, digests) or _of_patient(slide, names, patients)
        or TrainingOverlap("none", (), "no slide of this patient trained the run")
    )  # fmt: skip


def _of_image(slide: SlideRecord, names: Sequence[str], digests: Sequence[str]) -> TrainingOverlap | None:
    """The slide itself, the same image, or a slide of the same name."""
    known = bool(SHA256.fullmatch(slide.source_digest))
    same = tuple(name for name, digest in zip(names, digests, strict=True) if known and digest == slide.source_digest)
    here = dict(zip(names, digests, strict=True)).get(slide.slide_id)
    if slide.slide_id in same or (here is not None and not (known and SHA256.fullmatch(here))):
        return TrainingOverlap("slide", (slide.slide_id,), "this slide trained the run")
    if same:
        return TrainingOverlap("image", same, f"this image trained the run, as {_listed(same)}")
    if here is not None:
        words = f"a slide named {slide.slide_id} trained the run, made from another file"
        return TrainingOverlap("name", (slide.slide_id,), words)
    return None


def _of_patient(slide: SlideRecord, names: Sequence[str], patients: Sequence[str]) -> TrainingOverlap | None:
    """Other slides of the patient, or the doubt whether there are any; ids as this package spells them now."""
    patient, trained = patient_name(slide.patient_id), [patient_name(one) for one in patients]
    if patient is None:
        return TrainingOverlap("unknown patient", (), "its patient is not known, and may have trained the run")
    others = tuple(name for name, one in zip(names, trained, strict=True) if one == patient)
    if others:
        return TrainingOverlap("patient", others, f"patient {patient} trained the run with {_slides(others)}")
    alike = {
        one for group in look_alike_patients([patient, *filter(None, trained)]) if patient in group for one in group
    }
    doubtful = tuple(name for name, one in zip(names, trained, strict=True) if one in alike)
    if doubtful:
        other = ", ".join(sorted(alike - {patient}))
        words = f"its patient {patient} may be {other}, who trained the run with {_slides(doubtful)}"
        return TrainingOverlap("unknown patient", doubtful, words)
    doubtful = tuple(name for name, one in zip(names, trained, strict=True) if one is None)
    if doubtful:
        words = f"it may be of the same patient as {_listed(doubtful)}: slides of unknown patients trained the run"
        return TrainingOverlap("unknown patient", doubtful, words)
    return None


def _slides(names: Sequence[str]) -> str:
    return f"{'slide' if len(names) == 1 else 'slides'} {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
