"""What the scores are called where space is short, and in a sentence."""

from __future__ import annotations

from .protocol_record import Protocol
from .scores import SCORE_RULES

SHORT_NAMES = {
    "pcc_slide_mean": "PCC",
    "pcc_slide_median": "median",
    "pcc_heg50": "HEG-50",
    "pcc_hvg50": "HVG-50",
    "pcc_oracle50": "oracle-50",
    "pcc_test_heg50": "test HEG-50",
    "pcc_test_hvg50": "test HVG-50",
    "pcc_pooled": "pooled",
    "pcc_pooled_median": "pooled median",
    "pcc_pooled_oracle50": "pooled oracle-50",
    "pcc_spot": "spot-wise",
    "rmse_spot": "spot RMSE",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R²",
    "rvd": "RVD",
    "gene_correlation": "gene-gene",
    "morans_i_pcc": "Moran PCC",
    "morans_i_mae": "Moran MAE",
}
"""Titles of columns; a score that is not here goes by its field."""


def short_name(field: str) -> str:
    """Return the title of a score's column."""
    return SHORT_NAMES.get(field, field)


def in_words(field: str) -> str:
    """Return what a score is, and which way is better where lower is."""
    rule = SCORE_RULES.get(field)
    if rule is None:
        return field
    return rule.summary + ("; lower is better" if rule.better == "low" else "")


def averaged_words(field: str) -> str:
    """Return what a score is averaged over, in every table, plot and difference alike."""
    units = {"slides": "test slides", "spots": "test spots", "genes": "folds"}
    return f"averaged over {units[SCORE_RULES[field].over]}" if field in SCORE_RULES else "averaged"


def ranking_words(protocol: Protocol) -> str:
    """Return by which score a protocol ranks heads."""
    name = short_name(protocol.score)
    return f"Ranked by {name}: {protocol.headline}. 1 is perfect, 0 is a prediction without any pattern."
