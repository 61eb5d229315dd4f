"""The papers' splits, against the lists that they published or that their seeds give."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import outer_folds
from tissuary.store.errors import ProtocolError

HER2ST = {f"{p}{i}": p for p, n in zip("ABCDEFGH", (6, 6, 6, 6, 3, 3, 3, 3), strict=True) for i in range(1, n + 1)}
SLIDES, PATIENTS = list(HER2ST), list(HER2ST.values())


def named(fold, slides=SLIDES):
    return [slides[i] for i in fold.train], [slides[i] for i in fold.test]


def test_m2ort_has_the_split_that_its_seed_gives_on_her2st():
    (fold,) = outer_folds(get_protocol("m2ort-paper"), SLIDES, PATIENTS)
    train, test = named(fold)
    assert test == ["A1", "A2", "A6", "B5", "C1", "C4", "C6", "D2", "D6", "F1", "F3", "G3"]
    assert len(train) == 21
    assert set(SLIDES) - set(train) - set(test) == {"B6", "C3", "G2"}  # its validation slides


def test_the_order_of_the_slides_does_not_matter():
    backward = SLIDES[::-1], PATIENTS[::-1]
    for name in ("m2ort-paper", "cmrc-paper", "nh2st-paper", "mmap-paper"):
        forward = [named(fold) for fold in outer_folds(get_protocol(name), SLIDES, PATIENTS)]
        turned = [named(fold, backward[0]) for fold in outer_folds(get_protocol(name), *backward)]
        assert [(sorted(a), sorted(b)) for a, b in forward] == [(sorted(a), sorted(b)) for a, b in turned]


def test_nh2st_has_the_folds_that_share_patients_in_the_zen_slides():
    """reference: fold 0 tests ZEN45 and ZEN48, fold 1 ZEN47 and ZEN49, fold 2 ZEN44 and ZEN46."""
    zen = [f"ZEN{n}" for n in range(40, 50)]
    folds = outer_folds(replace(get_protocol("nh2st-paper"), n_folds=3), zen, zen)
    tests = [set(named(fold, zen)[1]) for fold in folds]
    assert {"ZEN45", "ZEN48"} <= tests[0]
    assert {"ZEN47", "ZEN49"} <= tests[1]
    assert {"ZEN44", "ZEN46"} <= tests[2]


def test_mmap_tests_on_its_eight_slides_whose_patients_all_train():
    (fold,) = outer_folds(get_protocol("mmap-paper"), SLIDES, PATIENTS)
    train, test = named(fold)
    assert test == ["A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1"]
    assert len(train) == 28
    assert {HER2ST[one] for one in test} <= {HER2ST[one] for one in train}


def test_mmap_on_another_cohort_tests_on_the_first_slide_of_patients_with_several():
    slides, patients = ["z2", "z1", "y1", "x2", "x1"], ["Z", "Z", "Y", "X", "X"]
    (fold,) = outer_folds(get_protocol("mmap-paper"), slides, patients)
    assert named(fold, slides) == (["z2", "y1", "x2"], ["z1", "x1"])
    with pytest.raises(ProtocolError, match=r"none of these 2 slides shares a patient.*Use --protocol strict"):
        outer_folds(get_protocol("mmap-paper"), ["a", "b"], ["A", "B"])


@given(st.integers(2, 20))
def test_k_folds_test_every_slide_once(n):
    slides = [f"s{i:02}" for i in range(n)]
    folds = outer_folds(get_protocol("cmrc-paper"), slides, slides)
    assert len(folds) == min(n, 5)
    assert sorted(i for fold in folds for i in fold.test) == list(range(n))
    assert all(sorted(fold.train + fold.test) == list(range(n)) for fold in folds)


def test_one_slide_cannot_be_split():
    with pytest.raises(ProtocolError, match="splits slides and needs at least two"):
        outer_folds(get_protocol("cmrc-paper"), ["a"], ["A"])


def test_hest_leaves_patients_out():
    folds = outer_folds(get_protocol("hest-bench/a1"), ["a1", "a2", "b1"], ["A", "A", "B"])
    assert [(fold.name, fold.test) for fold in folds] == [("A", (0, 1)), ("B", (2,))]
