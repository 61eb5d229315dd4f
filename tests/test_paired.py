"""Two heads over the same slides, and what a leaderboard says of the best head and ridge."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tissuary.heads.protocols.scores.aggregate import ScoredFold, aggregate, paired_difference, paired_values
from tissuary.heads.protocols.scores.intervals import patient_interval
from tissuary.heads.protocols.scores.metrics import score_fold
from tissuary.heads.protocols.scores.scores import SCORE_RULES
from tissuary.heads.report.conclusion import ridge_note
from tissuary.heads.report.leaderboard import Row
from tissuary.store.errors import ProtocolError

GENES = np.array([0, 1])


def head_folds(seed, noise, *, patients=("AA", "B", "CD", "E", "FF"), spots=(12, 9)):
    """Folds of one head: the truth is the cohort's, the error the head's own."""
    cohort, own = np.random.default_rng(99), np.random.default_rng(seed)
    folds = []
    for number, names in enumerate(patients):
        slide = np.repeat(np.arange(len(names)), [spots[i % 2] for i in range(len(names))])
        truth = cohort.normal(size=(len(slide), 5))
        prediction = truth + noise * own.normal(size=truth.shape)
        center_um = cohort.uniform(0, 100, (len(slide), 2))
        score = score_fold(prediction, truth, slide=slide, heg50=GENES, hvg50=GENES, center_um=center_um)
        folds.append(ScoredFold(f"fold {number}", tuple(names), score))
    return folds


def test_differences_by_hand():
    first, second = np.array([0.5, 0.3, 0.2, np.nan]), np.array([0.2, 0.4, 0.2, 0.1])
    pair = paired_values(first, second, ["A", "A", "B", "C"])
    assert pair.difference == pytest.approx((0.3 - 0.1 + 0) / 3, abs=1e-15)
    assert pair.per_patient == pytest.approx({"A": 0.1, "B": 0, "C": np.nan}, nan_ok=True)
    assert (pair.wins, pair.losses, pair.undefined, pair.interval, pair.settled) == (1, 0, 1, None, False)
    error = paired_values(first, second, ["A", "A", "B", "C"], score="mse", weights=np.array([1.0, 3, 1, 1]))
    assert error.difference == pytest.approx((0.3 - 0.3 + 0) / 5, abs=1e-15)
    assert error.per_patient["A"] == pytest.approx(0, abs=1e-15)
    assert paired_values(first[:1], second[:1], ["A"], score="mse").losses == 1  # the lower error is the better


@pytest.mark.parametrize("name", [name for name, rule in SCORE_RULES.items() if rule.over != "genes"])
def test_the_difference_is_that_of_the_aggregates(name):
    first, second = head_folds(0, 0.5), head_folds(1, 1.5)
    pair = paired_difference(first, second, score=name, seed=4)
    ours, theirs = aggregate(first), aggregate(second)
    assert pair.difference == pytest.approx(ours.scores[name] - theirs.scores[name], abs=1e-12)
    assert pair.interval.low <= pair.difference <= pair.interval.high
    assert pair.wins + pair.losses == 6
    better = pair.difference > 0 if SCORE_RULES[name].better == "high" else pair.difference < 0
    assert better == (pair.wins > pair.losses)


def test_the_interval_is_over_patients_and_of_the_differences():
    first, second = head_folds(0, 0.5), head_folds(1, 1.5)
    pair = paired_difference(first, second, seed=7)
    ours, theirs = (np.concatenate([one.score.slide_mean for one in folds]) for folds in (first, second))
    assert pair.interval == patient_interval(ours - theirs, list("AABCDEFF"))
    assert (pair.interval.n_patients, pair.n_patients) == (6, 6)
    assert pair.settled
    assert pair.per_patient["F"] == pytest.approx((ours - theirs)[6:].mean(), abs=1e-15)


def test_a_head_against_itself_differs_by_nothing_and_settles_nothing():
    folds = head_folds(0, 0.5)
    pair = paired_difference(folds, folds[::-1])
    assert (pair.difference, pair.interval.low, pair.interval.high, pair.wins, pair.losses) == (0, 0, 0, 0, 0)
    assert not pair.settled


def test_below_five_known_patients_nothing_is_settled():
    few = {"patients": ("AA", "B", "CD")}
    pair = paired_difference(head_folds(0, 0.1, **few), head_folds(1, 5, **few))
    assert pair.wins == 4
    assert pair.interval is None
    assert not pair.settled
    unknown = [dataclasses.replace(one, patients=("unknown:x",) * len(one.patients)) for one in head_folds(0, 0.1)]
    assert paired_difference(unknown, unknown).interval is None


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_heads_in_turn_change_the_sign_and_fold_order_nothing(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 14))
    patients = [f"P{i % 6}" for i in range(14)]
    plain, turned = paired_values(first, second, patients), paired_values(second, first, patients)
    assert turned.difference == pytest.approx(-plain.difference, abs=1e-12)
    assert (turned.wins, turned.losses) == (plain.losses, plain.wins)
    here, there = ([one.interval.low, one.interval.high] for one in (plain, turned))
    np.testing.assert_allclose(there, [-here[1], -here[0]], rtol=0, atol=1e-12)
    order = rng.permutation(14)
    moved = paired_values(first[order], second[order], [patients[i] for i in order])
    np.testing.assert_allclose([moved.interval.low, moved.interval.high], here, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"patients": ("AA", "B", "CD", "E", "FG")}, "patients"),
        ({"patients": ("AA", "B", "CD", "E", "FFF")}, "slides"),
        ({"spots": (12, 8)}, "spots"),
    ],
)
def test_other_test_data_is_refused(other, what):
    with pytest.raises(ProtocolError, match=f"the two heads were scored on other {what}; a difference needs the same"):
        paired_difference(head_folds(0, 1), head_folds(0, 1, **other))


def test_other_folds_genes_or_scores_are_refused():
    folds = head_folds(0, 1)
    with pytest.raises(ProtocolError, match=r"on folds \['fold 0'.*the other on \['fold 0'\]; a difference needs"):
        paired_difference(folds, folds[:1])
    with pytest.raises(ProtocolError, match="the same folds, each once"):
        paired_difference(folds[:1] * 2, folds[:1] * 2)
    with pytest.raises(ProtocolError, match="no fold to aggregate"):
        paired_difference([], [])
    truth = np.random.default_rng(0).normal(size=(12, 4))
    score = score_fold(truth, truth, slide=np.zeros(12, int), heg50=GENES, hvg50=GENES)
    fewer = [ScoredFold("fold 1", ("B",), score)]
    with pytest.raises(ProtocolError, match="other genes"):
        paired_difference(fewer, folds[1:2])


@pytest.mark.parametrize("name", [name for name, rule in SCORE_RULES.items() if rule.over == "genes"])
def test_scores_over_genes_are_paired_by_fold(name):
    one_each = {"patients": ("AA", "B", "C", "DD", "E")}
    first, second = head_folds(0, 0.5, **one_each), head_folds(1, 1.5, **one_each)
    pair = paired_difference(first, second, score=name)
    gains = [a.score.scores[name] - b.score.scores[name] for a, b in zip(first, second, strict=True)]
    expected = stats.ttest_1samp(gains, 0).confidence_interval()
    np.testing.assert_allclose([pair.interval.low, pair.interval.high], list(expected), rtol=0, atol=1e-12)
    # A fold of two patients belongs to neither.
    mixed = paired_difference(head_folds(0, 0.5), head_folds(1, 1.5), score=name)
    assert mixed.interval is None
    assert mixed.difference == pytest.approx(
        aggregate(head_folds(0, 0.5)).scores[name] - aggregate(head_folds(1, 1.5)).scores[name], abs=1e-12
    )


def row(head, score, **fields):
    whole = {"head": head, "mode": "default", "fold": "all", "pcc_slide_mean": score, **fields}
    return Row(label=head, kind="head", aggregate=whole, folds=())


def against_ridge(difference, low, high, *, wins, method="t", n_patients=6):
    words = {"head": "ridge", "score": "pcc_slide_mean", "method": method, "n_patients": n_patients}
    return {**words, "difference": difference, "low": low, "high": high, "wins": wins, "losses": n_patients - wins}


RIDGE = row("ridge", 0.2)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            against_ridge(0.05, 0.042, 0.058, wins=6),
            "Against ridge on the same features, mmap is 0.050 above it (95 % interval +0.042 to +0.058, Student's t "
            "over 6 patients) and better for 6 of 6 patients.",
        ),
        (
            against_ridge(0.058, -0.3, 0.416, wins=1),
            "Against ridge on the same features, mmap is 0.058 above it (95 % interval -0.300 to +0.416, Student's t "
            "over 6 patients) and better for 1 of 6 patients. The interval includes 0: it may add nothing to ridge.",
        ),
        (
            against_ridge(-0.01, -0.02, -0.005, wins=10, method="bootstrap", n_patients=31),
            "Against ridge on the same features, mmap is 0.010 below it (95 % interval -0.020 to -0.005, bootstrap "
            "over 31 patients) and better for 10 of 31 patients.",
        ),
        (
            against_ridge(0.1, None, None, wins=1, method=None, n_patients=2),
            "Against ridge on the same features, mmap is 0.100 above it and better for 1 of 2 patients. "
            "Without an interval it is open whether it adds anything to ridge.",
        ),
        (None, "Ridge on the same features was not scored, so nothing says what mmap adds to it."),
    ],
)
def test_what_the_best_head_adds_to_ridge_is_said(found, said):
    best = row("mmap", 0.25, difference_from_ridge=found)
    assert ridge_note(best, [best, RIDGE]) == said


def test_ridge_at_the_top_is_said():
    assert ridge_note(RIDGE, [RIDGE]) == "The best head is ridge itself."
    assert ridge_note(RIDGE, [RIDGE, row("knn", 0.1)]) == "The best head is ridge itself: no other head scores higher."
