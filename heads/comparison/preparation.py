"""What every head gets alike: panel, targets, weights, features, slide offsets, all learnt on training slides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import ProtocolError
from ...store.files.column import standardise
from ...store.table import Table
from ..linear.slide_level import SlideRidge
from ..protocols.counts import SpotCounts
from ..protocols.panels.gene_lists import fixed_rule
from ..protocols.panels.panels import Panel, heg_ranking, heg_within, hvg_within, slide_profiles
from ..protocols.panels.rules import get_panel_rule
from ..protocols.protocol import Protocol
from ..protocols.splits import Fold
from ..protocols.targets import (
    centre_by_slide,
    cp10k_log1p,
    get_target_rule,
    median_depth,
    seen_in_panel,
    slide_mean,
    smooth_3x3,
    spot_weights,
)
from .reduction import scaled_components, scaled_tokens

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


MIN_SLIDES_FOR_OFFSET_RIDGE = 10


@dataclass(frozen=True)
class Prepared:
    """One fold, ready for any head.

    Attributes
    ----------
    train
        Table with targets, the mean of each slide, and weights.
    test
        Table with predicted offsets and neither targets nor counts: a head cannot look.
    test_depth
        (n_test,) total counts of the test spots, for diagnostics alone.
    truth
        (n_test, n_panel) uncentred targets.
    panel
        The genes, ranked.
    heg50, hvg50
        Positions within the panel of the genes reported apart.
    preprocessing
        What was done, for the record.
    """

    train: Table
    test: Table
    test_depth: Floats
    truth: NDArray[np.float32]
    panel: Panel
    heg50: Ints
    hvg50: Ints
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class ProtocolCohort:
    """What all folds share: computed once for a protocol.

    Attributes
    ----------
    table
        All slides, features standardised as the protocol says where that needs no training spots.
    """

    table: Table
    counts: CohortCounts


def prepare_cohort(table: Table, protocol: Protocol) -> ProtocolCohort:
    """Profile the counts and standardise the features of a whole comparison.

    Raises
    ------
    ProtocolError
        If the table has no counts.
    """
    counts = CohortCounts.of(SpotCounts.of(table), protocol)
    if protocol.feature_standardisation == "slide":
        columns = {key: standardise(column, within="slide") for key, column in table.columns.items()}
        tokens = {key: standardise(column, within="slide") for key, column in table.token_columns.items()}
        table = replace(table, columns=columns, token_columns=tokens)
    # One number, the density, is z-scored within slides whatever is done to the features: it is a control.
    controls = {key: standardise(column, within="slide") for key, column in table.control_columns.items()}
    return ProtocolCohort(replace(table, control_columns=controls), counts)


def prepare(cohort: ProtocolCohort, fold: Fold, protocol: Protocol) -> Prepared:
    """Make the training and test tables of one fold.

    Panel, offsets and half-weight depth come from the training slides alone, unless the protocol says otherwise.
    """
    goal = fold_targets(cohort.counts, fold, protocol)
    names = tuple(str(gene) for gene in goal.panel.genes)
    bare = replace(cohort.table, counts=None, genes=goal.panel.genes, panel=names)
    train = _seen(bare.select_slides(fold.train), goal.train_seen)
    test = _seen(bare.select_slides(fold.test), goal.test_seen)
    y, truth = goal.train[goal.train_seen], goal.test[goal.test_seen]
    assert train.depth is not None and test.depth is not None
    depth, test_depth, half = train.depth, test.depth, median_depth(train.depth)
    train, test, features = _features(train, test, protocol)
    offsets = slide_mean(y, train.slide)[1]  # (n_train_slides, n_panel)
    centred = protocol.target_centring == "slide"
    if centred:
        predicted, rule = _predict_offsets(train, test, offsets)
    else:  # heads predict whole targets; controls still learn from the levels of the training slides
        predicted, rule = np.zeros((len(test.slide_ids), offsets.shape[1])), "none: part of the prediction"
    weights = spot_weights(depth, half) if protocol.spot_weight == "depth" else np.ones(len(train))
    train = replace(
        train,
        targets=np.asarray(centre_by_slide(y, train.slide) if centred else y, dtype=np.float32),
        target_offset=np.asarray(offsets, dtype=np.float32),
        weights=np.asarray(weights, dtype=np.float32),
    )
    test = replace(test, depth=None, target_offset=np.asarray(predicted, dtype=np.float32))
    preprocessing = {
        "features": features,
        "target": f"{protocol.target}: {get_target_rule(protocol.target).summary}",
        "target_smoothing": "3 x 3 array positions, test spots too" if protocol.smoothing == "all" else "none",
        "target_centring": protocol.target_centring,
        "slide_offset": rule,
        "spot_weight": protocol.spot_weight,
        "half_weight_depth": half,
        "spots_left_out": int((~goal.train_seen).sum() + (~goal.test_seen).sum()),
    }
    truth32 = truth.astype(np.float32)
    return Prepared(train, test, test_depth, truth32, goal.panel, goal.heg50, goal.hvg50, preprocessing)


def _features(train: Table, test: Table, protocol: Protocol) -> tuple[Table, Table, str]:
    """Features as the protocol wants them, and what was done in words."""
    if protocol.feature_standardisation == "train-pca256":
        train, test, words = scaled_components(train, test, seed=protocol.seed or 0)
        if train.token_columns:
            train, test = scaled_tokens(train, test)
            words += "; token grids and sub-tiles z-scored over training slides and not reduced"
        return train, test, words
    return train, test, "z-scored per slide" if protocol.feature_standardisation == "slide" else "as stored"


def _seen(table: Table, seen: Bools) -> Table:
    """Spots that take part.

    Raises
    ------
    ProtocolError
        If a slide has none.
    """
    if seen.all():
        return table
    kept = table.select_rows(np.flatnonzero(seen))
    gone = sorted(set(range(len(table.slide_ids))) - set(np.unique(kept.slide).tolist()))
    if gone:
        named = ", ".join(table.slide_ids[one] for one in gone)
        msg = f"no spot of {named} has a count in the panel: leave the slide out, or predict other genes"
        raise ProtocolError(msg)
    return kept


def _predict_offsets(train: Table, test: Table, offsets: Floats) -> tuple[Floats, str]:
    """Offsets (n_test_slides, n_panel): the training mean, or ridge on slide-mean features where slides suffice."""
    mean = np.broadcast_to(offsets.mean(axis=0), (len(test.slide_ids), offsets.shape[1]))
    if len(train.slide_ids) < MIN_SLIDES_FOR_OFFSET_RIDGE:
        return mean, "training mean"
    return SlideRidge.fit(train, offsets).predict(test), "ridge on slide-mean features"
