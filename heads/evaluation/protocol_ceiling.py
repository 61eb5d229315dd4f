"""The ceiling lines of a protocol, over the genes and test slides that its folds score."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats, Ints
from ...store.errors import ProtocolError
from .ceiling import TargetOf, counting_ceiling
from .counts import SpotCounts
from .defined import mean_of_defined
from .detail import Ceiling
from .gene_maps import HeldOut
from .lines import Line
from .other_genes import from_other_genes
from .protocol_record import Protocol
from .smoothing import smooth_3x3
from .target_rules import get_target_rule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredPanel:
    """What one fold scores: its genes, on so many test slides."""

    genes: tuple[str, ...]
    n_slides: int


def protocol_ceilings(
    protocols: Sequence[Protocol],
    counts: SpotCounts,
    held_out: Mapping[Line, Sequence[HeldOut]],
    *,
    seed: int = 0,
) -> tuple[Ceiling, ...]:
    """Return the ceiling lines of every protocol under which any head was scored.

    Parameters
    ----------
    protocols
        Those that were run.
    counts
        Raw counts of all slides that are compared.
    held_out
        Predictions of each line on all folds: every line of a protocol has the same folds and panels.
    seed
        Of the thinning.
    """
    ceilings = []
    for protocol in protocols:
        held = next((folds for line, folds in held_out.items() if line[0] == protocol.name), ())
        panels = [ScoredPanel(one.test.panel, len(one.test.slide_ids)) for one in held]
        if panels:
            target = target_of(protocol)
            ceilings.append(protocol_ceiling(protocol.name, counts, panels, target=target, seed=seed))
    return tuple(ceilings)


def target_of(protocol: Protocol) -> TargetOf:
    """Return the transform of counts that a protocol predicts, its smoothing included."""
    rule = get_target_rule(protocol.target).function
    if protocol.smoothing == "none":
        return rule

    def smoothed(counts: SpotCounts, panel: Ints) -> Floats:
        return smooth_3x3(rule(counts, panel), counts.array, counts.slide)

    return smoothed


def protocol_ceiling(
    protocol: str, counts: SpotCounts, panels: Sequence[ScoredPanel], *, target: TargetOf, seed: int = 0
) -> Ceiling:
    """Return the ceiling lines of a protocol.

    Parameters
    ----------
    protocol
        Its name.
    counts
        Raw counts of all slides that are compared.
    panels
        One a fold.
    target
        The transform that is predicted, its smoothing included. One that divides by the panel's total is right where
        all folds have one panel.
    seed
        Of the thinning.

    Returns
    -------
    Ceiling
        Without a counting ceiling (NaN) where counts are no whole numbers, which is logged.
    """
    position = {str(gene): i for i, gene in enumerate(counts.genes)}
    genes = tuple(dict.fromkeys(gene for panel in panels for gene in panel.genes))
    index = np.array([position[gene] for gene in genes], dtype=np.int64)
    try:
        counting = counting_ceiling(counts, index, target=target, seed=seed)
    except ProtocolError as error:
        log.warning("no ceiling under %s: %s", protocol, error)
        counting = np.full(len(genes), np.nan)
    others = from_other_genes(target(counts, index), counts.slide)
    return Ceiling(
        protocol=protocol,
        genes=genes,
        counting=counting,
        other_genes=others,
        counting_mean=_as_the_headline(counting, genes, panels),
        other_genes_mean=_as_the_headline(others, genes, panels),
    )


def _as_the_headline(values: Floats, genes: Sequence[str], panels: Sequence[ScoredPanel]) -> float:
    """Mean over test slides of the mean over the genes of their fold's panel."""
    position = {gene: i for i, gene in enumerate(genes)}
    means = [mean_of_defined(values[[position[gene] for gene in panel.genes]]) for panel in panels]
    weights = np.array([panel.n_slides for panel in panels], dtype=np.float64)
    return float(mean_of_defined(np.array(means, dtype=np.float64), weights=weights))
