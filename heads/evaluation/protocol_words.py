"""A protocol in sentences, for a reader who has not read its record."""

from __future__ import annotations

from collections.abc import Mapping

from .protocols import Protocol
from .standings import Standing

# What each value of a protocol's fields means; a value that is not here is named as it is.
SPLITS = {
    "patient": "Each fold tests on all slides of one patient; heads are trained on the other patients.",
    "slide": "Each fold tests on one slide; heads are trained on the other slides, of the same patient too.",
}
PANELS = {
    "heg250": "Genes: the {size} of highest mean expression over the training slides of the fold.",
}
TARGETS = {
    "log1p-cp10k": "Target: log1p of counts per ten thousand, by each spot's total over all genes, not smoothed.",
}
STANDARDISATIONS = {
    "slide": "Features are z-scored within each slide.",
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
    panel = PANELS.get(protocol.panel, "Genes: the panel {name} of {size}.")
    return (
        SPLITS.get(protocol.split, f"Split: {protocol.split}."),
        panel.format(size=protocol.panel_size, name=protocol.panel),
        TARGETS.get(protocol.target, f"Target: {protocol.target}."),
        STANDARDISATIONS.get(
            protocol.feature_standardisation, f"Feature standardisation: {protocol.feature_standardisation}."
        ),
        CENTRINGS.get(protocol.target_centring, f"Target centring: {protocol.target_centring}."),
        WEIGHTS.get(protocol.spot_weight, f"Spot weight: {protocol.spot_weight}."),
        f"Headline score (PCC): {protocol.headline}.",
    )


def recorded_preprocessing(standing: Standing) -> dict[str, object]:
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
