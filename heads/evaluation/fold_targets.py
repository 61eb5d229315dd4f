"""What counts say of a fold: its genes, the targets of its training and test spots, and which spots take part."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import ProtocolError
from .counts import SpotCounts
from .folds import Fold
from .gene_lists import fixed_rule
from .panel_rules import get_panel_rule
from .panels import Panel, heg_ranking, heg_within, hvg_within
from .protocol_record import Protocol
from .ranked_panels import slide_profiles
from .smoothing import smooth_3x3
from .target_rules import get_target_rule, seen_in_panel
from .targets import cp10k_log1p

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CohortCounts:
    """Counts of all slides of a comparison, with what is computed from them once for every fold.

    Attributes
    ----------
    profiles
        (n_slides, n_genes) mean log1p(CP10K) of each slide.
    slide_scores
        (n_slides, n_genes) of a panel rule that averages over slides; None where the rule does not.
    panel
        Positions of the panel's genes, where all slides choose them; None where each fold has its own.
    """

    spots: SpotCounts
    profiles: Floats
    slide_scores: Floats | None = None
    panel: Ints | None = None

    @classmethod
    def of(cls, spots: SpotCounts, protocol: Protocol) -> CohortCounts:
        """Compute them.

        Raises
        ------
        ProtocolError
            If there is no such panel rule, or it finds no gene.
        """
        profiles = slide_profiles(spots)
        if protocol.panel_genes:
            listed = fixed_rule(protocol.panel_genes, unknown="leave out")
            return cls(spots, profiles, panel=listed.choose(spots))
        rule = get_panel_rule(protocol.panel)
        if protocol.panel_slides == "all":
            return cls(spots, profiles, panel=rule.choose(spots, protocol.panel_size))
        if rule.slide_scores is None:
            return cls(spots, profiles)
        return cls(spots, profiles, profiles if rule.slide_scores is slide_profiles else rule.slide_scores(spots))


@dataclass(frozen=True)
class FoldTargets:
    """Targets of one fold, on the scale that is predicted.

    Attributes
    ----------
    train, test
        (n_train, n_panel) and (n_test, n_panel) float64; slides one after the other, in the order of the fold.
    train_seen, test_seen
        Spots that take part: all, unless the paper leaves out those without a count in the panel.
    heg50, hvg50
        Positions within the panel of the genes reported apart, ranked on training slides.
    """

    panel: Panel
    train: Floats
    test: Floats
    train_seen: Bools
    test_seen: Bools
    heg50: Ints
    hvg50: Ints


def fold_targets(counts: CohortCounts, fold: Fold, protocol: Protocol) -> FoldTargets:
    """Choose the genes of a fold and transform its counts.

    Raises
    ------
    ProtocolError
        If the rule finds no gene, or targets are to be smoothed and array positions are not known.
    """
    index = choose_panel(counts, fold, protocol)
    genes = np.asarray(counts.spots.genes, dtype=np.str_)[index]
    train, test = (counts.spots.select_slides(slides) for slides in (fold.train, fold.test))
    rule = get_target_rule(protocol.target)
    targets = []
    for one in (train, test):
        values = rule.function(one, index)
        targets.append(smooth_3x3(values, one.array, one.slide) if protocol.smoothing == "all" else values)
    seen = [
        seen_in_panel(one, index) if rule.leaves_out_unseen else np.ones(len(one), dtype=np.bool_)
        for one in (train, test)
    ]
    return FoldTargets(
        panel=Panel(genes=genes, index=index),
        train=targets[0],
        test=targets[1],
        train_seen=seen[0],
        test_seen=seen[1],
        heg50=heg_within(counts.profiles[list(fold.train)][:, index], genes),
        hvg50=_most_variable(train, index),
    )


def choose_panel(counts: CohortCounts, fold: Fold, protocol: Protocol) -> Ints:
    """Positions of the panel's genes, in the order of its rule."""
    if counts.panel is not None:
        return counts.panel
    if counts.slide_scores is not None:
        ranking: Ints = heg_ranking(counts.slide_scores[list(fold.train)], counts.spots.genes)
        return ranking[: protocol.panel_size]
    return get_panel_rule(protocol.panel).choose(counts.spots.select_slides(fold.train), protocol.panel_size)


def _most_variable(train: SpotCounts, index: Ints) -> Ints:
    expression = np.asarray(cp10k_log1p(train.matrix[:, index], total=train.depth).toarray())
    try:
        return hvg_within(expression, train.slide)
    except ProtocolError as error:  # training slides of one spot: only this score is undefined
        log.warning("pcc_hvg50 is undefined: %s", error)
        return np.array([], dtype=np.int64)
