"""What every head gets alike: panel, targets, weights, features, slide offsets, all learnt on training slides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import ProtocolError
from ...store.feature_column import standardise
from ...store.table import Table
from ..slide_level import SlideRidge
from .counts import SpotCounts
from .feature_reduction import scaled_components, scaled_tokens
from .fold_targets import CohortCounts, fold_targets
from .folds import Fold
from .panels import Panel
from .protocol_record import Protocol
from .target_rules import get_target_rule
from .targets import centre_by_slide, median_depth, slide_mean, spot_weights

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
class Cohort:
    """What all folds share: computed once for a protocol.

    Attributes
    ----------
    table
        All slides, features standardised as the protocol says where that needs no training spots.
    """

    table: Table
    counts: CohortCounts


def prepare_cohort(table: Table, protocol: Protocol) -> Cohort:
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
    return Cohort(replace(table, control_columns=controls), counts)


def prepare(cohort: Cohort, fold: Fold, protocol: Protocol) -> Prepared:
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
