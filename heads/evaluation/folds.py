"""One outer fold, and what may never be in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...store.errors import ProtocolError
from .protocol_record import Protocol


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
