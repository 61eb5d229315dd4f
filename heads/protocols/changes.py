"""A protocol with something of it changed, and its declarations kept true."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...store.choices import as_names
from ...store.errors import ProtocolError
from ...store.option_types import check_types
from .named import get_protocol
from .panels.rules import get_panel_rule
from .protocol import TRANSDUCTIVE_FEATURES, FeatureStandardisation, Protocol, SpotWeight, TargetCentring


@dataclass(frozen=True, kw_only=True)
class ProtocolChanges:
    """What a user puts in place of what a protocol says; None keeps it.

    Attributes
    ----------
    standardise, centring, spot_weight
        Of features, targets and weights; the records declare it.
    panel
        A rule for genes, or their names.
    panel_size
        How many genes.
    """

    standardise: FeatureStandardisation | None = None
    centring: TargetCentring | None = None
    spot_weight: SpotWeight | None = None
    panel: str | tuple[str, ...] | None = None
    panel_size: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.panel is not None and not isinstance(self.panel, str):
            object.__setattr__(self, "panel", as_names(self.panel, "panel"))
        for name, choices in (("standardise", ("slide", "none")), ("centring", ("slide", "none")),
                              ("spot_weight", ("depth", "none"))):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value not in choices:
                msg = f"`{name}={value}`: choose {' or '.join(choices)}"
                raise ProtocolError(msg)


def changed_protocol(name: str, changes: ProtocolChanges) -> Protocol:
    """Return the protocol of a name with the changes made, and told in `adapted`.

    Raises
    ------
    ProtocolError
        If there is no such protocol or rule, or no gene is wanted.
    """
    protocol = with_preprocessing(
        get_protocol(name),
        feature_standardisation=changes.standardise,
        target_centring=changes.centring,
        spot_weight=changes.spot_weight,
    )
    return changes_told(with_panel(protocol, panel=changes.panel, size=changes.panel_size))


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
    if standardisation != protocol.feature_standardisation:
        others = tuple(line for line in others if not line.startswith("features "))
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
        if size is not None:
            msg = f"a list of {len(panel)} genes and a panel size of {size}: give one of them"
            raise ProtocolError(msg)
        given = "genes given as a list: whether test slides helped to choose them is not known here"
        return replace(
            protocol,
            panel_genes=panel,
            panel_size=len(panel),
            declares=(*protocol.declares, given),
            leaks=tuple(leak for leak in protocol.leaks if not leak.startswith("genes chosen on test")),
        )
    if panel is not None:
        protocol = replace(protocol, panel=panel, panel_size=get_panel_rule(panel).default_size)
    return protocol if size is None else replace(protocol, panel_size=size)


def changes_told(protocol: Protocol) -> Protocol:
    """Return the protocol saying in `adapted` what of it differs from the protocol of its name."""
    known = get_protocol(protocol.name)
    changes = [
        f"changed by the user: {what} {getattr(protocol, field)} in place of {getattr(known, field)}"
        for what, field in (
            ("features standardised by", "feature_standardisation"),
            ("targets centred by", "target_centring"),
            ("spots weighted by", "spot_weight"),
            ("genes", "panel_name"),
        )
        if getattr(protocol, field) != getattr(known, field)
    ]
    return replace(protocol, adapted="; ".join([*([known.adapted] if known.adapted else []), *changes]))
