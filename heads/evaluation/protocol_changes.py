"""A protocol with something of it changed, and its declarations kept true."""

from __future__ import annotations

from dataclasses import replace

from ...store.errors import ProtocolError
from .panel_rules import get_panel_rule
from .protocol_record import TRANSDUCTIVE_FEATURES, FeatureStandardisation, Protocol, SpotWeight, TargetCentring


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


def with_panel(protocol: Protocol, *, panel: str | tuple[str, ...] | None = None, size: int | None = None) -> Protocol:
    """Return the protocol with other genes.

    Parameters
    ----------
    panel
        A rule's name, or a fixed list of genes; None keeps the protocol's own.
    size
        How many genes the rule takes; None keeps the protocol's own, or takes that of the new rule's source.

    Raises
    ------
    ProtocolError
        If there is no such rule, or no gene is wanted.
    """
    if size is not None and size < 1:
        msg = f"a panel of {size} genes: ask for at least one"
        raise ProtocolError(msg)
    if isinstance(panel, tuple):
        return replace(protocol, panel_genes=panel, panel_size=len(panel))
    if panel is not None:
        protocol = replace(protocol, panel=panel, panel_size=get_panel_rule(panel).default_size)
    return protocol if size is None else replace(protocol, panel_size=size)
