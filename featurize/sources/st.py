"""The layout of the first Spatial Transcriptomics cohorts, as published with HER2ST.

`<root>/data/ST-imgs/<patient>/<section>/<image>`, `<root>/data/ST-cnts/<section>.tsv.gz` and
`<root>/data/ST-spotfiles/<section>_selection.tsv`; the folder that holds the three may be given itself. It carries no
scale: the spot pitch has to be declared.

Andersson, A. et al. (2021). Spatial deconvolution of HER2-positive breast cancer. Nat Commun 12:6012.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...store.errors import CohortError
from ...store.naming import patient_name
from .images import image_files, reading
from .sample import MeasuredSpots, Refused, Sample, unknown_patient
from .spots import join, read_count_table, read_spots


def st_root(source: Path) -> Path | None:
    """The folder that holds `ST-imgs`: `source` or its `data`; None where neither does."""
    return next((root for root in (source, source / "data") if (root / "ST-imgs").is_dir()), None)


def st_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample a section, by patient and section; the patient is the folder's name.

    A section that does not have exactly one image is refused, and the others go on.

    Raises
    ------
    CohortError
        If the layout is not there.
    """
    root = st_root(source)
    if root is None:
        msg = f"{source} holds neither ST-imgs nor data/ST-imgs, so it is not the legacy ST layout: give its root"
        raise CohortError(msg)
    sections = [(patient, section) for patient in _folders(root / "ST-imgs") for section in _folders(patient)]
    if not sections:
        msg = f"{root / 'ST-imgs'} holds no <patient>/<section> folders"
        raise CohortError(msg)
    return tuple(_sample(root, patient, section) for patient, section in sections)


def _sample(root: Path, patient: Path, section: Path) -> Sample | Refused:
    try:
        image = _only_image(section)
    except CohortError as error:
        return Refused(section.name, error)
    name = patient_name(patient.name) or unknown_patient(section.name)
    return Sample(section.name, name, image, read_measured=partial(_read, root, section.name))


def _only_image(section: Path) -> Path:
    with reading(section):
        images = image_files(section)
    if len(images) != 1:
        found = ", ".join(image.name for image in images) or "none"
        msg = f"{section} must hold exactly one image, found {found}: add it, or move the others away"
        raise CohortError(msg)
    return images[0]


def _read(root: Path, section: str) -> MeasuredSpots:
    folder = root / "ST-cnts"
    plain = folder / f"{section}.tsv"
    with reading(plain):
        is_plain = plain.is_file()
    counts = plain if is_plain else folder / f"{section}.tsv.gz"
    spots = read_spots(root / "ST-spotfiles" / f"{section}_selection.tsv")
    return join(section, spots, read_count_table(counts))


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
