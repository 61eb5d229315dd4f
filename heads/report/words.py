"""What the scores are called where space is short, and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from ..protocols.panels.rules import PANEL_RULES
from ..protocols.protocol import Protocol
from ..protocols.scores.scores import SCORE_RULES
from ..protocols.targets import TARGET_RULES
from .leaderboard import Leaderboard

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


# What each value of a protocol's fields means; a value that is not here is named as it is.
SPLITS = {
    "patient": "Each fold tests on all slides of one patient; heads are trained on the other patients.",
    "slide": "Each fold tests on one slide; heads are trained on the other slides, of the same patient too.",
    "slide-kfold": "Slides are shuffled and cut into {n_folds} folds, whoever their patients are (seed {split_seed}).",
    "slide-shuffle": (
        "Slides are shuffled once (seed {split_seed}), whoever their patients are: {train_share:.0%} train, "
        "{validation_share:.0%} are for validation, the others are tested on."
    ),
    "one-slide-a-patient": (
        "One fold tests on one slide of every patient that has several; heads are trained on all other slides, of the "
        "same patients too."
    ),
}
GENE_SOURCES = {
    "train": "They are chosen on the training slides of the fold.",
    "all": "They are chosen on all slides, test slides too.",
}
SMOOTHINGS = {
    "none": "not smoothed",
    "all": "averaged over 3 x 3 array positions in training and in test",
}
STANDARDISATIONS = {
    "slide": "Features are z-scored within each slide.",
    "train-pca256": "Features are z-scored over training spots and reduced to 256 components learnt there.",
    "none": "Features are taken as they are.",
}
CENTRINGS = {
    "slide": "Heads learn deviations from their slide's mean; a new slide's mean is predicted apart.",
    "none": "Heads learn the targets as they are.",
}
WEIGHTS = {
    "depth": "A training spot weighs depth / (depth + c), c the median depth of the training spots.",
    "none": "All training spots weigh the same.",
}
# A recorded value that differs from fold to fold in more ways than this is not listed.
MAX_VALUES_LISTED = 3


def protocol_sentences(protocol: Protocol) -> tuple[str, ...]:
    """Return what is held out, predicted and shared under a protocol, and what its headline score is."""
    return (
        *_split_sentences(protocol),
        _panel_sentence(protocol),
        _target_sentence(protocol),
        STANDARDISATIONS.get(
            protocol.feature_standardisation, f"Feature standardisation: {protocol.feature_standardisation}."
        ),
        CENTRINGS.get(protocol.target_centring, f"Target centring: {protocol.target_centring}."),
        WEIGHTS.get(protocol.spot_weight, f"Spot weight: {protocol.spot_weight}."),
        f"Selection: {protocol.selection}.",
        ranking_words(protocol),
        *((f"Adapted: {protocol.adapted}.",) if protocol.adapted else ()),
    )


def _split_sentences(protocol: Protocol) -> tuple[str, ...]:
    words = SPLITS.get(protocol.split, f"Split: {protocol.split}.").format(
        n_folds=protocol.n_folds,
        split_seed=protocol.split_seed,
        train_share=protocol.train_share or 0.0,
        validation_share=protocol.validation_share or 0.0,
    )
    own = f"Where the cohort has them all, the test slides are the paper's: {', '.join(protocol.test_slides)}."
    return (words, own) if protocol.test_slides else (words,)


def _panel_sentence(protocol: Protocol) -> str:
    if protocol.panel_genes:
        return f"Genes: a list of {len(protocol.panel_genes)} that was given, those that every slide measured."
    rule = PANEL_RULES.get(protocol.panel)
    summary = protocol.panel if rule is None else rule.summary
    return (
        f"Genes: {protocol.panel_size} by the rule {protocol.panel} ({summary}). {GENE_SOURCES[protocol.panel_slides]}"
    )


def _target_sentence(protocol: Protocol) -> str:
    rule = TARGET_RULES.get(protocol.target)
    formula = "" if rule is None else f" = {rule.summary}, x the raw count"
    return f"Target: {protocol.target}{formula}, {SMOOTHINGS[protocol.smoothing]}."


def recorded_preprocessing(standing: Leaderboard) -> dict[str, object]:
    """Return the preprocessing that the records of a leaderboard carry, one value where all folds agree."""
    values: dict[str, dict[str, None]] = {}
    for row in standing.rows:
        for fold in row.folds or (row.aggregate,):
            recorded = fold.get("preprocessing")
            if isinstance(recorded, Mapping):
                for name, value in recorded.items():
                    text = f"{value:g}" if isinstance(value, float) else str(value)
                    values.setdefault(str(name), {}).setdefault(text)
    return {
        name: ", ".join(texts) if len(texts) <= MAX_VALUES_LISTED else f"{len(texts)} values, by fold"
        for name, texts in values.items()
    }


# What the names of licences say about use; the licence's own text holds.
NON_COMMERCIAL = ("nc", "noncommercial", "research")


def licence_sentences(provenance: Mapping[str, object]) -> tuple[str, ...]:
    """Return one sentence for each encoder whose features were used.

    Parameters
    ----------
    provenance
        Of the comparison; ``"licences"`` maps encoders to the names of their licences.
    """
    licences = provenance.get("licences")
    if not isinstance(licences, Mapping):
        return ()
    return tuple(_sentence(str(encoder), licence) for encoder, licence in licences.items())


def _sentence(encoder: str, licence: object) -> str:
    if licence is None or str(licence).strip().lower() in ("", "none", "unknown"):
        return f"Features of {encoder}: no licence is recorded; find out what its weights allow before sharing results."
    name = str(licence)
    words = name.lower().replace("_", "-").replace(" ", "-").split("-")
    bound = any(word in words for word in NON_COMMERCIAL) or "non-commercial" in name.lower()
    use = " It excludes commercial use, of heads trained on these features as well." if bound else ""
    return f"Features of {encoder}: {name}.{use}"
