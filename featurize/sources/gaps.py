"""What a cohort's source does not say, in one table before work starts."""

from __future__ import annotations

import logging

from ...store.naming import UNKNOWN_PATIENT, look_alike_warning
from .images import image_identity
from .sample import NO_IMAGE, Cohort, Sample

log = logging.getLogger(__name__)

UNSCALED_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Images that never carry um/px."""

MOST_ROWS = 20
"""Slides that are listed; the others are counted."""

Row = tuple[str, str, str]


def gaps_of(cohort: Cohort, *, mpp: float | None = None) -> list[Row]:
    """Slides of which something is not said: (slide, patient, um/px).

    Images are not opened yet: um/px that only their metadata can say is "left to the image".

    Parameters
    ----------
    mpp
        um per level-0 pixel that was declared for all slides.
    """
    rows = [(one.slide_id, _patient(one), _scale(one, mpp)) for one in cohort.samples]
    return [row for row in rows if row[1] == "missing" or row[2] in ("missing", "left to the image")]


def announce(cohort: Cohort, *, mpp: float | None = None) -> None:
    """Say what was recognised and why, and what its source lacks; to the log, as a warning where something is missing.

    Parameters
    ----------
    mpp
        um per level-0 pixel that was declared for all slides.
    """
    refused = f", {len(cohort.refused)} refused" if cohort.refused else ""
    log.info("%d slides%s, read as %s", len(cohort.samples), refused, cohort.source)
    _announce_left_out(cohort)
    _announce_shared_images(cohort)
    alike = look_alike_warning(sample.patient_id for sample in cohort.samples)
    if alike:
        log.warning("%s", alike)
    rows = gaps_of(cohort, mpp=mpp)
    missing = [row for row in rows if "missing" in row]
    if missing:
        log.warning("not said by the source:\n%s", gap_table(missing))
    elif rows:
        log.info("um/px of %d slides is left to their images", len(rows))


def _announce_left_out(cohort: Cohort) -> None:
    """List what of a folder is no slide; files that are no image are counted."""
    listed = [f"  {name}: {reason}" for name, reason in cohort.left_out if reason != NO_IMAGE]
    if listed:
        more = [f"  ... and {len(listed) - MOST_ROWS} more"] if len(listed) > MOST_ROWS else []
        log.warning("not read:\n%s", "\n".join([*listed[:MOST_ROWS], *more]))
    others = len(cohort.left_out) - len(listed)
    if others:
        log.info("%d other files and folders are no images", others)


def _announce_shared_images(cohort: Cohort) -> None:
    """Warn of slides without spots that are one image: a path named twice, or two files of one DICOM slide."""
    slides: dict[str, list[str]] = {}
    for sample in cohort.samples:
        if sample.read_measured is None:
            slides.setdefault(image_identity(sample.image), []).append(sample.slide_id)
    for names in slides.values():
        if len(names) > 1:
            log.warning("slides %s are one image: heads may be tested on what they were trained on", ", ".join(names))


def gap_table(rows: list[Row]) -> str:
    """The table as text, with the mend of each column below it."""
    shown = [("slide", "patient", "um/px"), *rows[:MOST_ROWS]]
    width = [max(len(row[column]) for row in shown) for column in range(3)]
    lines = ["  " + "  ".join(cell.ljust(width[i]) for i, cell in enumerate(row)).rstrip() for row in shown]
    if len(rows) > MOST_ROWS:
        lines.append(f"  ... and {len(rows) - MOST_ROWS} more")
    if any(row[1] == "missing" for row in rows):
        lines.append(
            "  patient: each such slide counts as a patient of its own (unknown:<slide>), and heads may be tested on "
            "people they were trained on; give patient_id in a manifest"
        )
    if any(row[2] == "missing" for row in rows):
        lines.append("  um/px: these slides will be refused; give --mpp, --pitch-um, or mpp or pitch_um in a manifest")
    return "\n".join(lines)


def _patient(sample: Sample) -> str:
    return "missing" if sample.patient_id.startswith(UNKNOWN_PATIENT) else sample.patient_id


def _scale(sample: Sample, mpp: float | None) -> str:
    if sample.mpp is not None:
        return f"{sample.mpp:.4g} ({sample.declared_in})"
    if mpp is not None:
        return f"{mpp:.4g} (command line)"
    if sample.pitch_um is not None and sample.read_measured is not None:
        return f"from a spot pitch of {sample.pitch_um:g} um"
    return "missing" if sample.image.suffix.lower() in UNSCALED_SUFFIXES else "left to the image"
