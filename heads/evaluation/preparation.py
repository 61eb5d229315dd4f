"""What every head gets alike: panel, targets, weights, features, slide offsets, all learnt on training slides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import ProtocolError
from ...store.feature_column import standardise
from ...store.table import Table
from ..slide_level import SlideRidge
from .panels import Panel, heg_panel, hvg_within
from .protocols import Protocol
from .splits import Fold
from .targets import centre_by_slide, cp10k_log1p, median_depth, slide_mean, spot_weights

log = logging.getLogger(__name__)

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
    truth
        (n_test, n_panel) uncentred targets.
    panel
        The genes, ranked.
    hvg50
        Positions within the panel.
    preprocessing
        What was done, for the record.
    """

    train: Table
    test: Table
    truth: NDArray[np.float32]
    panel: Panel
    hvg50: Ints
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Cohort:
    """What all folds share: computed once for a comparison.

    Attributes
    ----------
    table
        All slides, features standardised as the protocol says.
    expression
        (n, n_genes) log1p(CP10K), sparse, of the genes on every slide.
    profiles
        (n_slides, n_genes) mean of it per slide.
    """

    table: Table
    expression: Any
    profiles: Floats


def prepare_cohort(table: Table, protocol: Protocol) -> Cohort:
    """Transform counts and standardise features of a whole comparison.

    Raises
    ------
    ProtocolError
        If the table has no counts.
    """
    if table.counts is None or table.depth is None:
        msg = "the table has no counts: comparing heads needs slides with measured expression"
        raise ProtocolError(msg)
    if protocol.feature_standardisation == "slide":
        columns = {key: standardise(column, within="slide") for key, column in table.columns.items()}
        controls = {key: standardise(column, within="slide") for key, column in table.control_columns.items()}
        table = replace(table, columns=columns, control_columns=controls)
    expression = cp10k_log1p(table.counts, total=table.depth)
    return Cohort(table, expression, slide_mean(expression, table.slide)[1])


def prepare(cohort: Cohort, fold: Fold, protocol: Protocol) -> Prepared:
    """Make the training and test tables of one fold.

    Panel, offsets and half-weight depth come from the training slides alone.
    """
    whole = cohort.table
    panel = heg_panel(cohort.profiles[list(fold.train)], whole.genes, size=protocol.panel_size)
    names = tuple(str(gene) for gene in panel.genes)
    bare = replace(whole, counts=None, genes=panel.genes, panel=names)
    train, test = bare.select_slides(fold.train), bare.select_slides(fold.test)
    y = _rows(cohort.expression, whole, fold.train)[:, panel.index].toarray()  # (n_train, n_panel)
    truth = _rows(cohort.expression, whole, fold.test)[:, panel.index].toarray()
    assert train.depth is not None
    half = median_depth(train.depth)
    offsets = slide_mean(y, train.slide)[1]  # (n_train_slides, n_panel)
    centred = protocol.target_centring == "slide"
    if centred:
        predicted, rule = _predict_offsets(train, test, offsets)
    else:  # heads predict whole targets; controls still learn from the levels of the training slides
        predicted, rule = np.zeros((len(test.slide_ids), offsets.shape[1])), "none: part of the prediction"
    weights = spot_weights(train.depth, half) if protocol.spot_weight == "depth" else np.ones(len(train))
    train = replace(
        train,
        targets=np.asarray(centre_by_slide(y, train.slide) if centred else y, dtype=np.float32),
        target_offset=np.asarray(offsets, dtype=np.float32),
        weights=np.asarray(weights, dtype=np.float32),
    )
    test = replace(test, depth=None, target_offset=np.asarray(predicted, dtype=np.float32))
    preprocessing = {
        "features": "as stored" if protocol.feature_standardisation == "none" else "z-scored per slide",
        "target": protocol.target,
        "target_centring": protocol.target_centring,
        "slide_offset": rule,
        "spot_weight": protocol.spot_weight,
        "half_weight_depth": half,
    }
    try:
        hvg50 = hvg_within(y, train.slide)
    except ProtocolError as error:  # training slides of one spot: only this score is undefined
        log.warning("pcc_hvg50 is undefined: %s", error)
        hvg50 = np.array([], dtype=np.int64)
    return Prepared(train, test, truth.astype(np.float32), panel, hvg50, preprocessing)


def _predict_offsets(train: Table, test: Table, offsets: Floats) -> tuple[Floats, str]:
    """Offsets (n_test_slides, n_panel): the training mean, or ridge on slide-mean features where slides suffice."""
    mean = np.broadcast_to(offsets.mean(axis=0), (len(test.slide_ids), offsets.shape[1]))
    if len(train.slide_ids) < MIN_SLIDES_FOR_OFFSET_RIDGE:
        return mean, "training mean"
    return SlideRidge.fit(train, offsets).predict(test), "ridge on slide-mean features"


def _rows(matrix: Any, table: Table, slides: tuple[int, ...]) -> Any:
    """Rows of some slides, in the order in which `select_slides` gives them."""
    return matrix[np.concatenate([np.flatnonzero(table.slide == one) for one in slides])]
