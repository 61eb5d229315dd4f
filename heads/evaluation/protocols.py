"""Evaluation protocols by name: this project's own, and the field's."""

from __future__ import annotations

from ...store.choices import instead
from ...store.errors import ProtocolError
from .paper_protocols import CMRC_PAPER, HEST_A1, HEST_A2, M2ORT_PAPER, MMAP_PAPER, NH2ST_PAPER
from .protocol_record import Protocol

STRICT = Protocol(name="strict", split="patient")

STRICT_SLIDE = Protocol(
    name="strict-slide",
    split="slide",
    leaks=(
        "the patient of a test slide may also be in training: sections of one tumour are no test of generalisation "
        "to another patient",
    ),
)

PROTOCOLS: dict[str, Protocol] = {
    "strict": STRICT,
    "strict-slide": STRICT_SLIDE,
    "hest-bench/a1": HEST_A1,
    "hest-bench/a2": HEST_A2,
    "mmap-paper": MMAP_PAPER,
    "m2ort-paper": M2ORT_PAPER,
    "nh2st-paper": NH2ST_PAPER,
    "cmrc-paper": CMRC_PAPER,
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises
    ------
    ProtocolError
        Where there is none; the message lists the valid names.
    """
    if name not in PROTOCOLS:
        msg = f"there is no protocol {name!r}: {instead(name, list(PROTOCOLS))}"
        raise ProtocolError(msg)
    return PROTOCOLS[name]
