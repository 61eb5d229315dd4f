"""Evaluation protocols as records: what is held out, what is predicted, what is shared, what leaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ...store.errors import ProtocolError

Split = Literal["patient", "slide"]
PanelRule = Literal["heg250"]
TargetRule = Literal["log1p-cp10k"]
FeatureStandardisation = Literal["slide", "none"]
TargetCentring = Literal["slide", "none"]
SpotWeight = Literal["depth", "none"]

TRANSDUCTIVE_FEATURES = (
    "transductive features: the features of every slide, test slides too, are standardised with that slide's own "
    "mean and standard deviation; this uses its pixels and no counts"
)
SHARED_GENE_LIST = (
    "shared gene list: the panel is drawn from genes measured on every slide, test slides too; this uses the names "
    "of their genes and no counts"
)
HEADLINE = "mean over genes of the Pearson correlation within each test slide, averaged over test slides"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How heads are compared, and what that comparison can and cannot say.

    Parameters
    ----------
    name
        The name by which `get_protocol` finds it.
    split
        What one outer fold holds out: all slides of one patient, or one slide.
    panel, panel_size
        The rule that ranks genes on training slides, and how many of the first are predicted.
    target
        The transform of raw counts that is predicted.
    feature_standardisation
        ``"slide"``: features are z-scored per slide for every head alike.
    target_centring
        ``"slide"``: heads learn deviations from their slide's mean; the slide's offset is predicted apart.
    spot_weight
        ``"depth"``: a training spot weighs depth / (depth + c), c the median depth of the training spots.
    headline
        The score by which heads are ranked, in words.
    declares
        What a reader must know although it is no leak.
    leaks
        What makes the score look better than it is, in plain language; empty where nothing does.
    """

    name: str
    split: Split
    panel: PanelRule = "heg250"
    panel_size: int = 250
    target: TargetRule = "log1p-cp10k"
    feature_standardisation: FeatureStandardisation = "slide"
    target_centring: TargetCentring = "slide"
    spot_weight: SpotWeight = "depth"
    headline: str = HEADLINE
    declares: tuple[str, ...] = (TRANSDUCTIVE_FEATURES, SHARED_GENE_LIST)
    leaks: tuple[str, ...] = ()


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
}


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises
    ------
    ProtocolError
        Where there is none; the message lists the valid names.
    """
    if name not in PROTOCOLS:
        msg = f"There is no protocol {name!r}; choose one of: {', '.join(sorted(PROTOCOLS))}."
        raise ProtocolError(msg)
    return PROTOCOLS[name]


def with_preprocessing(
    protocol: Protocol,
    *,
    feature_standardisation: FeatureStandardisation | None = None,
    target_centring: TargetCentring | None = None,
    spot_weight: SpotWeight | None = None,
) -> Protocol:
    """Return the protocol with other preprocessing, its declarations kept true.

    Parameters
    ----------
    protocol
        The record to start from; it is not changed.
    feature_standardisation, target_centring, spot_weight
        The new values; None keeps the protocol's own.
    """
    standardisation = feature_standardisation or protocol.feature_standardisation
    others = tuple(line for line in protocol.declares if line != TRANSDUCTIVE_FEATURES)
    transductive = (TRANSDUCTIVE_FEATURES,) if standardisation == "slide" else ()
    return replace(
        protocol,
        feature_standardisation=standardisation,
        target_centring=target_centring or protocol.target_centring,
        spot_weight=spot_weight or protocol.spot_weight,
        declares=transductive + others,
    )
