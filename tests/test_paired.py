"""Two heads over the same slides, and what a leaderboard says of the best head and ridge."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.heads.evaluation.against_ridge import ridge_note
from tissuary.heads.evaluation.aggregate import ScoredFold, aggregate, bootstrap_interval
from tissuary.heads.evaluation.leaderboard_rows import Row
from tissuary.heads.evaluation.metrics import score_fold
from tissuary.heads.evaluation.paired import paired_difference, paired_values
from tissuary.heads.evaluation.scores import SCORE_RULES
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
    assert pair.interval[0] <= pair.difference <= pair.interval[1]
    assert pair.wins + pair.losses == 6
    better = pair.difference > 0 if SCORE_RULES[name].better == "high" else pair.difference < 0
    assert better == (pair.wins > pair.losses)


def test_the_interval_is_over_patients_and_of_the_differences():
    first, second = head_folds(0, 0.5), head_folds(1, 1.5)
    pair = paired_difference(first, second, seed=7)
    ours, theirs = (np.concatenate([one.score.slide_mean for one in folds]) for folds in (first, second))
    assert pair.interval == bootstrap_interval(ours - theirs, list("AABCDEFF"), seed=7)
    assert pair.settled
    assert pair.per_patient["F"] == pytest.approx((ours - theirs)[6:].mean(), abs=1e-15)


def test_a_head_against_itself_differs_by_nothing_and_settles_nothing():
    folds = head_folds(0, 0.5)
    pair = paired_difference(folds, folds[::-1])
    assert (pair.difference, pair.interval, pair.wins, pair.losses) == (0, (0, 0), 0, 0)
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
    np.testing.assert_allclose(turned.interval, (-plain.interval[1], -plain.interval[0]), rtol=0, atol=1e-12)
    order = rng.permutation(14)
    moved = paired_values(first[order], second[order], [patients[i] for i in order])
    np.testing.assert_allclose(moved.interval, plain.interval, rtol=0, atol=1e-12)


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
    with pytest.raises(ProtocolError, match="pcc_pooled is made of genes"):
        paired_difference(folds, folds, score="pcc_pooled")


def row(head, scores, **fields):
    """One line of a leaderboard, a fold per patient."""
    shared = {"head": head, "mode": "default", "preprocessing": {"features": "slide"}, **fields}
    mean = float(np.mean(list(scores.values())))
    folds = tuple({**shared, "fold": patient, "pcc_slide_mean": value} for patient, value in scores.items())
    whole = {**shared, "fold": "all", "pcc_slide_mean": mean, "per_patient": scores}
    return Row(label=head, kind="head", aggregate=whole, folds=folds)


def six(*values):
    return {f"P{i}": value for i, value in enumerate(values)}


RIDGE = row("ridge", six(0.2, 0.2, 0.2, 0.2, 0.2, 0.2))


def test_the_best_head_is_held_against_ridge_with_an_interval():
    steady = row("mmap", six(0.25, 0.24, 0.26, 0.25, 0.24, 0.26))
    note = ridge_note(steady, [steady, RIDGE])
    assert note.startswith(
        "Against ridge with the same preprocessing (0.200) it is 0.050 above on the mean over patients, "
        "and ahead for 6 of 6 patients (95 % interval of the difference 0.04"
    )
    assert "includes 0" not in note
    shaky = row("mmap", six(0.9, 0.1, 0.1, 0.2, 0.15, 0.1))
    note = ridge_note(shaky, [shaky, RIDGE])
    assert "ahead for 1 of 6 patients" in note
    assert "It includes 0: it may add nothing to ridge." in note


def test_few_patients_settle_nothing_against_ridge():
    best, ridge = row("mmap", {"B": 0.3, "C": 0.2}), row("ridge", {"B": 0.1, "C": 0.2})
    assert ridge_note(best, [best, ridge]) == (
        "Against ridge with the same preprocessing (0.150) it is 0.100 above on the mean over patients, and ahead for "
        "1 of 2 patients. That is no ground for an interval: whether it adds anything to ridge is not settled."
    )


@pytest.mark.parametrize(
    "other",
    [
        row("ridge", six(0.2, 0.2, 0.2, 0.2, 0.2, 0.2), preprocessing={"features": "none"}),
        row("ridge", six(0.2, 0.2, 0.2, 0.2, 0.2, 0.2), mode="hest"),
        row("ridge", six(0.2, 0.2, 0.2, 0.2, 0.2)),
        row("knn", six(0.2, 0.2, 0.2, 0.2, 0.2, 0.2)),
    ],
)
def test_only_ridge_on_the_same_terms_is_compared(other):
    best = row("mmap", six(0.3, 0.3, 0.3, 0.3, 0.3, 0.3))
    assert ridge_note(best, [best, other]) == (
        "No ridge with the same preprocessing and folds was scored, so nothing says what mmap adds to it."
    )


def test_ridge_at_the_top_is_said():
    assert ridge_note(RIDGE, [RIDGE]) == "The best head is ridge itself."
    knn = row("knn", six(0.1, 0.1, 0.1, 0.1, 0.1, 0.1))
    assert ridge_note(RIDGE, [RIDGE, knn]) == "The best head is ridge itself: no other head adds to it on the mean."


def test_without_scores_per_patient_there_is_no_comparison():
    best = row("mmap", six(0.3, 0.3))
    bare = dataclasses.replace(best, aggregate={**best.aggregate, "per_patient": {}})
    ridge = row("ridge", six(0.2, 0.2))
    assert ridge_note(bare, [bare, ridge]) == "There are no scores per patient to compare mmap with ridge (0.200)."
