"""What a protocol says: what is held out, what is predicted, what is shared, what leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["patient", "slide", "slide-kfold", "slide-shuffle", "one-slide-a-patient"]
GeneSource = Literal["train", "all"]
Smoothing = Literal["none", "all"]
FeatureStandardisation = Literal["slide", "none", "train-pca256"]
TargetCentring = Literal["slide", "none"]
SpotWeight = Literal["depth", "none"]

TRANSDUCTIVE_FEATURES = (
    "transductive features: the features of every slide, test slides too, are standardised with that slide's own "
    "mean and standard deviation; this uses its pixels and no counts"
)
SHARED_GENE_LIST = (
    "shared gene list: the panel is drawn from genes measured on every slide, test slides too; this uses the names "
    "of their genes and no counts"
)
HEADLINE = "mean over genes of the Pearson correlation within each test slide, averaged over test slides"
INNER = (
    "alpha, epochs and k are chosen on inner folds of the training patients; of the training slides where patients are "
    "fewer than three; fixed where slides are too"
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How heads are compared, and what that comparison can and cannot say.

    Parameters
    ----------
    name
        The name by which `get_protocol` finds it.
    split
        What one outer fold holds out: all slides of one patient, one slide, a k-th of the slides, a shuffled share of
        the slides, or one slide of every patient that has several. See `tissuary.heads.protocols.splits`.
    n_folds, split_seed, train_share, validation_share
        Of splits that have them.
    test_slides
        The paper's own test slides; they are used where the cohort has them all.
    panel, panel_size
        The rule that chooses genes (`tissuary.heads.protocols.panels.rules`), and how many are predicted.
    panel_genes
        A fixed list of genes in place of a rule; those that the slides lack are left out and named.
    panel_slides
        Slides whose counts choose the genes: ``"train"``, or ``"all"``, which leaks.
    target
        The transform of raw counts that is predicted (`tissuary.heads.protocols.targets`).
    smoothing
        ``"all"``: targets are averaged over 3 x 3 array positions, in training and in test.
    feature_standardisation
        ``"slide"``: features are z-scored per slide for every head alike; ``"train-pca256"``: z-scored over training
        spots and reduced to 256 components learnt there; ``"none"``: as stored.
    target_centring
        ``"slide"``: heads learn deviations from their slide's mean; the slide's offset is predicted apart.
    spot_weight
        ``"depth"``: a training spot weighs depth / (depth + c), c the median depth of the training spots.
    score, headline
        The score by which heads are ranked, and the same in words.
    selection
        How heads choose what they choose, in words.
    modes
        Heads that are run in the paper's own mode beside their default one: (head, mode).
    seed
        The paper's seed of heads in these modes; None takes the comparison's.
    adapted
        What differs from the paper's own run, in words; empty for this project's protocols.
    declares
        What a reader must know although it is no leak.
    leaks
        What makes the score look better than it is, in plain language; empty where nothing does.
    """

    name: str
    split: Split
    n_folds: int | None = None
    split_seed: int | None = None
    train_share: float | None = None
    validation_share: float | None = None
    test_slides: tuple[str, ...] = ()
    panel: str = "heg"
    panel_size: int = 250
    panel_genes: tuple[str, ...] = ()
    panel_slides: GeneSource = "train"
    target: str = "log1p-cp10k"
    smoothing: Smoothing = "none"
    feature_standardisation: FeatureStandardisation = "slide"
    target_centring: TargetCentring = "slide"
    spot_weight: SpotWeight = "depth"
    score: str = "pcc_slide_mean"
    headline: str = HEADLINE
    selection: str = INNER
    modes: tuple[tuple[str, str], ...] = ()
    seed: int | None = None
    adapted: str = ""
    declares: tuple[str, ...] = (TRANSDUCTIVE_FEATURES, SHARED_GENE_LIST)
    leaks: tuple[str, ...] = ()

    @property
    def panel_name(self) -> str:
        """Rule and size, such as `heg250`."""
        if self.panel_genes:
            return f"list of {len(self.panel_genes)}"
        return f"{self.panel}{self.panel_size}"


# The score that ranks where no protocol names another in `Protocol.score`.
HEADLINE_FIELD = "pcc_slide_mean"
