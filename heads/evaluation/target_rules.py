"""Transforms of raw counts that heads predict, by name. Each looks at a spot, or its slide, and at no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints
from ...store.errors import ProtocolError
from .counts import SpotCounts
from .targets import cp10k_log1p, depth, median_log1p

PER_10K = 1e4
PER_MILLION = 1e6


@dataclass(frozen=True)
class TargetRule:
    """How counts become targets.

    Attributes
    ----------
    function
        Takes counts and the panel's positions, returns float64 (n, n_panel). Rows are those of the counts, also of
        spots without a count, whose targets are 0.
    summary
        The transform as a formula; x is a spot's raw count of a gene.
    source
        Who predicts it.
    unit
        What a colour bar of such values says.
    over_panel
        Whether a spot's total is taken over the genes of the panel, so that a value depends on all of them.
    leaves_out_unseen
        Whether the source drops spots without a count in the panel; `seen_in_panel` tells which.
    """

    function: Callable[[SpotCounts, Ints], Floats]
    summary: str
    source: str
    unit: str
    over_panel: bool = False
    leaves_out_unseen: bool = False


def seen_in_panel(counts: SpotCounts, panel: Ints) -> Bools:
    """Whether a spot has any count in the panel, (n,)."""
    return depth(counts.matrix[:, panel]) > 0


def _log1p_raw(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_panel_counts(counts, panel)[0]))


def _log1p_cp10k(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(cp10k_log1p(counts.matrix[:, panel], total=counts.depth).toarray())


def _log1p_cp10k_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_shares(counts, panel) * PER_10K))


def _ln_cpm_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log1p(_shares(counts, panel) * PER_MILLION))


def _log10_cp10k_panel(counts: SpotCounts, panel: Ints) -> Floats:
    return np.asarray(np.log10(_shares(counts, panel) * PER_10K + 1))


def _log1p_median(counts: SpotCounts, panel: Ints) -> Floats:
    """Total over all genes of the file, as in the second pass of CMRCNet's code."""
    return np.asarray(median_log1p(counts.matrix[:, panel], counts.depth, counts.slide).toarray())


def _shares(counts: SpotCounts, panel: Ints) -> Floats:
    """Share of each gene in the spot's total over the panel, (n, n_panel); 0 where that total is."""
    raw, total = _panel_counts(counts, panel)
    return np.divide(raw, total[:, None], out=np.zeros_like(raw), where=total[:, None] > 0)


def _panel_counts(counts: SpotCounts, panel: Ints) -> tuple[Floats, Floats]:
    """Raw counts of the panel, float64 (n, n_panel), and their total a spot, (n,)."""
    picked = counts.matrix[:, panel]
    return picked.astype(np.float64).toarray(), depth(picked)


TARGET_RULES: dict[str, TargetRule] = {
    "log1p-raw": TargetRule(_log1p_raw, "ln(1 + x)", "HEST-Benchmark", "ln(1 + counts)"),
    "log1p-cp10k": TargetRule(
        _log1p_cp10k,
        "ln(1 + 10,000 x / total over all genes)",
        "the default of this project",
        "ln(1 + counts per 10,000)",
    ),
    "log1p-cp10k-panel": TargetRule(
        _log1p_cp10k_panel,
        "ln(1 + 10,000 x / total over the panel)",
        "TRIPLEX, before its smoothing",
        "ln(1 + counts per 10,000 of the panel)",
        over_panel=True,
    ),
    "ln-cpm-panel": TargetRule(
        _ln_cpm_panel,
        "ln(1 + 1,000,000 x / total over the panel)",
        "M2ORT and M2OST",
        "ln(1 + counts per million of the panel)",
        over_panel=True,
        leaves_out_unseen=True,
    ),
    "log10-cp10k-panel": TargetRule(
        _log10_cp10k_panel,
        "log10(1 + 10,000 x / total over the panel)",
        "MMAP; NH2ST, before its smoothing",
        "log10(1 + counts per 10,000 of the panel)",
        over_panel=True,
    ),
    "log1p-median": TargetRule(
        _log1p_median,
        "ln(1 + m x / total over all genes), m the median total of the slide's spots",
        "CMRCNet",
        "ln(1 + counts at the slide's median total)",
    ),
}


def get_target_rule(name: str) -> TargetRule:
    """Return the rule of that name.

    Raises
    ------
    ProtocolError
        Where there is none; the message lists the valid names.
    """
    if name not in TARGET_RULES:
        msg = f"There is no target rule {name!r}; choose one of: {', '.join(TARGET_RULES)}."
        raise ProtocolError(msg)
    return TARGET_RULES[name]
