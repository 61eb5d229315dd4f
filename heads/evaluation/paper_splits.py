"""The papers' ways of choosing test slides: shuffled shares, k folds over slides, one slide of every patient."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ...store.errors import ProtocolError
from .folds import Fold
from .protocol_record import Protocol


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
