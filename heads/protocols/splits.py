"""Who is trained on and who is tested: outer folds, inner selection, and the patients that stand behind them."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ...store.errors import ProtocolError
from ...store.naming import UNKNOWN_PATIENT, look_alike_warning
from .protocol import Protocol, Split


@dataclass(frozen=True)
class Fold:
    """One outer fold: positions in the list of slides that it was made from; slides may be in neither."""

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]


def check_fold(fold: Fold, patient_ids: Sequence[str], *, protocol: Protocol) -> None:
    """Refuse a fold that tests on what it trained on.

    Parameters
    ----------
    fold
        Positions in the list of slides.
    patient_ids
        The patient of each slide in that list.
    protocol
        Where its split is ``"patient"``, a patient may not span train and test.

    Raises
    ------
    ProtocolError
        Where train or test is empty, a slide is in both, or a patient spans them.
    """
    if not fold.train or not fold.test:
        msg = (
            f"Fold {fold.name!r} has {len(fold.train)} training and {len(fold.test)} test slides; both need at least "
            "one. Give it slides on both sides."
        )
        raise ProtocolError(msg)
    shared_slides = sorted(set(fold.train) & set(fold.test))
    if shared_slides:
        msg = f"Fold {fold.name!r} has slides {shared_slides} in train and in test; take them out of one."
        raise ProtocolError(msg)
    if protocol.split != "patient":
        return
    shared = sorted({patient_ids[i] for i in fold.train} & {patient_ids[i] for i in fold.test})
    if shared:
        msg = (
            f"Fold {fold.name!r} has patient {', '.join(shared)} in train and in test, which protocol "
            f"{protocol.name!r} refuses; put all slides of a patient on one side, or use --protocol strict-slide, "
            "which says what it leaks."
        )
        raise ProtocolError(msg)


def shuffled_shares(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> tuple[Fold, ...]:
    """One fold from the shuffled list of sorted slides: first the training share, then validation, the rest is test.

    Python's own generator shuffles, as the M2ORT code does; on the 36 sections of HER2ST seed 1553 gives its split.
    """
    assert protocol.train_share is not None and protocol.validation_share is not None
    order = sorted(range(len(slide_ids)), key=lambda i: slide_ids[i])
    random.Random(protocol.split_seed).shuffle(order)
    n_train = int(protocol.train_share * len(order))
    n_validation = int(protocol.validation_share * len(order))
    test = order[n_train + n_validation :]
    return (Fold("shuffle", train=tuple(sorted(order[:n_train])), test=tuple(sorted(test))),)


def folds_of_slides(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> tuple[Fold, ...]:
    """K folds over the shuffled, sorted slides, by scikit-learn's `KFold`; one fold a slide where there are fewer."""
    import numpy as np
    from sklearn.model_selection import KFold

    assert protocol.n_folds is not None
    order = np.array(sorted(range(len(slide_ids)), key=lambda i: slide_ids[i]))
    folds = KFold(min(protocol.n_folds, len(order)), shuffle=True, random_state=protocol.split_seed).split(order)
    return tuple(
        Fold(f"fold {number}", train=tuple(sorted(order[train].tolist())), test=tuple(sorted(order[test].tolist())))
        for number, (train, test) in enumerate(folds)
    )


def one_slide_a_patient(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> tuple[Fold, ...]:
    """One fold: the paper's own test slides where all are there, else the first slide of every patient with several.

    Raises
    ------
    ProtocolError
        If no patient has several slides.
    """
    if protocol.test_slides and set(protocol.test_slides) <= set(slide_ids):
        test = sorted(slide_ids.index(name) for name in protocol.test_slides)
    else:
        slides_of: dict[str, list[int]] = {}
        for i in sorted(range(len(slide_ids)), key=lambda i: slide_ids[i]):
            slides_of.setdefault(patient_ids[i], []).append(i)
        test = sorted(slides[0] for slides in slides_of.values() if len(slides) > 1)
    if not test:
        msg = (
            f"Protocol {protocol.name!r} tests on one slide of every patient that has several, and none of these "
            f"{len(slide_ids)} slides shares a patient with another. Use --protocol strict."
        )
        raise ProtocolError(msg)
    train = tuple(i for i in range(len(slide_ids)) if i not in test)
    return (Fold("test", train=train, test=tuple(test)),)


ALL = "all"
# Inner selection leaves patients out from three training patients on, else slides from three training slides on.
MIN_INNER_GROUPS = 3

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class InnerSelection:
    """How a fold chooses alpha, epochs and k on its training slides.

    Each group is held out once, the other groups train; with ``"fixed"`` there are no groups, and the values are
    alpha = number of features and 10 epochs.
    """

    rule: Literal["patients", "slides", "fixed"]
    groups: tuple[tuple[int, ...], ...]


def outer_folds(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> tuple[Fold, ...]:
    """Return the folds of a protocol over a list of slides.

    Parameters
    ----------
    protocol
        Its `split` says what a fold holds out.
    slide_ids, patient_ids
        One entry per slide, in the same order. ``unknown:<slide>`` counts as a patient of its own.

    Returns
    -------
    tuple of Fold
        Those that leave one out in the order in which patients or slides first appear, named after what they hold out.

    Raises
    ------
    ProtocolError
        With fewer than two patients or slides, or with slides that appear twice.
    """
    _check_slides(slide_ids, patient_ids)
    if len(slide_ids) < 2:
        raise ProtocolError(_too_few(protocol, slide_ids, patient_ids))
    folds = SPLITS[protocol.split](protocol, slide_ids, patient_ids)
    for fold in folds:
        check_fold(fold, patient_ids, protocol=protocol)
    return folds


def leave_one_out(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> tuple[Fold, ...]:
    """A fold for each patient, or for each slide.

    Raises
    ------
    ProtocolError
        With one patient or slide only, or one that is called like the average over folds.
    """
    groups = _grouped(patient_ids if protocol.split == "patient" else slide_ids)
    if ALL in groups:
        msg = f"A {protocol.split} is called {ALL!r}, the name of the average over folds; rename it in the manifest."
        raise ProtocolError(msg)
    if len(groups) < 2:
        raise ProtocolError(_too_few(protocol, slide_ids, patient_ids))
    return tuple(
        Fold(name=name, train=tuple(sorted(set(range(len(slide_ids))) - set(test))), test=test)
        for name, test in groups.items()
    )


SPLITS: dict[Split, Callable[[Protocol, Sequence[str], Sequence[str]], tuple[Fold, ...]]] = {
    "patient": leave_one_out,
    "slide": leave_one_out,
    "slide-kfold": folds_of_slides,
    "slide-shuffle": shuffled_shares,
    "one-slide-a-patient": one_slide_a_patient,
}


def inner_selection(slide_ids: Sequence[str], patient_ids: Sequence[str]) -> InnerSelection:
    """Return how alpha, epochs and k are chosen on the training slides of one fold.

    Parameters
    ----------
    slide_ids, patient_ids
        The training slides of the fold and their patients. The groups are positions in these lists, not in the list
        of all slides.
    """
    _check_slides(slide_ids, patient_ids)
    patients = _grouped(patient_ids)
    if len(patients) >= MIN_INNER_GROUPS:
        return InnerSelection("patients", tuple(patients.values()))
    if len(slide_ids) >= MIN_INNER_GROUPS:
        return InnerSelection("slides", tuple((i,) for i in range(len(slide_ids))))
    return InnerSelection("fixed", ())


def patient_warnings(patient_ids: Sequence[str]) -> tuple[str, ...]:
    """Return what a reader of a score must be told about the patients of a cohort.

    Parameters
    ----------
    patient_ids
        The patient of each slide.

    Returns
    -------
    tuple of str
        A sentence on slides without a known patient, one on names that may be of one patient, and one where there are
        fewer than three patients.
    """
    warnings = []
    unknown = [patient.removeprefix(UNKNOWN_PATIENT) for patient in patient_ids if patient.startswith(UNKNOWN_PATIENT)]
    if unknown:
        warnings.append(
            f"the patient is not known for {len(unknown)} of {len(patient_ids)} slides ({_listed(unknown)}): each is "
            "counted as a patient of its own, so sections of one patient may sit in train and in test; give "
            "patient_id in a manifest"
        )
    alike = look_alike_warning(patient_ids)
    if alike:
        warnings.append(alike)
    patients = list(_grouped(patient_ids))
    if len(patients) == 1:
        warnings.append(
            f"there is one patient ({patients[0]}): no score can say how well a head does on another patient"
        )
    elif len(patients) == 2:
        warnings.append(
            f"there are two patients ({patients[0]}, {patients[1]}): leaving one out trains on the other alone, and "
            "the average of two such scores says little about a third patient"
        )
    return tuple(warnings)


def _grouped(labels: Sequence[Group]) -> dict[Group, tuple[int, ...]]:
    """Positions by label, in order of first appearance."""
    groups: dict[Group, tuple[int, ...]] = {}
    for position, label in enumerate(labels):
        groups[label] = (*groups.get(label, ()), position)
    return groups


def _check_slides(slide_ids: Sequence[str], patient_ids: Sequence[str]) -> None:
    if len(slide_ids) != len(patient_ids):
        msg = f"{len(slide_ids)} slides came with {len(patient_ids)} patients; give one patient_id per slide."
        raise ProtocolError(msg)
    twice = [slide for slide, positions in _grouped(slide_ids).items() if len(positions) > 1]
    if twice:
        msg = f"Slides {_listed(twice)} are listed more than once; list each slide once."
        raise ProtocolError(msg)


def _too_few(protocol: Protocol, slide_ids: Sequence[str], patient_ids: Sequence[str]) -> str:
    does = f"leaves one {protocol.split} out" if protocol.split in ("patient", "slide") else "splits slides"
    needs = f"Protocol {protocol.name!r} {does} and needs at least two; there"
    if len(slide_ids) < 2:
        found = _listed(slide_ids) if slide_ids else "none"
        return f"{needs} is only {len(slide_ids)} slide ({found}). Add slides with counts to the store."
    return (
        f"{needs} is one patient ({patient_ids[0]}) with {len(slide_ids)} slides. Use --protocol strict-slide, or add "
        "slides of another patient."
    )


def _listed(names: Sequence[str], *, most: int = 5) -> str:
    """Names for a message, cut where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
