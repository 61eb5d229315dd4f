import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuary.heads.protocols.named import get_protocol
from tissuary.heads.protocols.splits import Fold, check_fold, inner_selection, outer_folds, patient_warnings
from tissuary.store.errors import ProtocolError

STRICT, STRICT_SLIDE = get_protocol("strict"), get_protocol("strict-slide")
SLIDES = ["B4", "C2", "C3", "C4"]
PATIENTS = ["B", "C", "C", "C"]


def test_strict_leaves_one_patient_out():
    assert outer_folds(STRICT, SLIDES, PATIENTS) == (
        Fold(name="B", train=(1, 2, 3), test=(0,)),
        Fold(name="C", train=(0,), test=(1, 2, 3)),
    )


def test_strict_slide_leaves_one_slide_out():
    folds = outer_folds(STRICT_SLIDE, SLIDES, PATIENTS)
    assert [fold.name for fold in folds] == SLIDES
    assert folds[1] == Fold(name="C2", train=(0, 2, 3), test=(1,))


def test_unknown_patients_are_patients_of_their_own():
    folds = outer_folds(STRICT, ["a", "b", "c"], ["unknown:a", "unknown:b", "P1"])
    assert [(fold.name, fold.test) for fold in folds] == [("unknown:a", (0,)), ("unknown:b", (1,)), ("P1", (2,))]


@given(st.lists(st.sampled_from("PQRST"), min_size=2, max_size=12).filter(lambda drawn: len(set(drawn)) > 1))
def test_folds_test_every_slide_once_and_never_share_a_patient(patients):
    slides = [f"s{i}" for i in range(len(patients))]
    folds = outer_folds(STRICT, slides, patients)
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(slides)))
    for fold in folds:
        assert sorted(fold.train + fold.test) == list(range(len(slides)))
        assert not {patients[i] for i in fold.train} & {patients[i] for i in fold.test}


def test_one_patient_is_pointed_to_strict_slide():
    with pytest.raises(ProtocolError, match=r"'strict' leaves one patient out.*one patient \(C\).*strict-slide"):
        outer_folds(STRICT, ["C2", "C3"], ["C", "C"])


@pytest.mark.parametrize("protocol", [STRICT, STRICT_SLIDE])
@pytest.mark.parametrize(("slides", "found"), [(["C2"], r"1 slide \(C2\)"), ([], r"0 slide \(none\)")])
def test_too_few_slides_says_to_add_some(protocol, slides, found):
    with pytest.raises(ProtocolError, match=found + ".*Add slides with counts"):
        outer_folds(protocol, slides, ["C"] * len(slides))


def test_slides_and_patients_must_match():
    with pytest.raises(ProtocolError, match="2 slides came with 1 patients"):
        outer_folds(STRICT, ["a", "b"], ["P"])
    with pytest.raises(ProtocolError, match="a are listed more than once"):
        outer_folds(STRICT, ["a", "a"], ["P", "Q"])


def test_strict_refuses_a_patient_who_spans_train_and_test():
    spanning = Fold(name="by-hand", train=(0, 1), test=(2, 3))
    with pytest.raises(ProtocolError, match=r"'by-hand' has patient C in train and in test.*strict-slide"):
        check_fold(spanning, PATIENTS, protocol=STRICT)
    check_fold(spanning, PATIENTS, protocol=STRICT_SLIDE)


@pytest.mark.parametrize("protocol", [STRICT, STRICT_SLIDE])
def test_no_protocol_tests_on_a_training_slide_or_on_nothing(protocol):
    with pytest.raises(ProtocolError, match=r"slides \[1\] in train and in test"):
        check_fold(Fold(name="twice", train=(0, 1), test=(1,)), PATIENTS, protocol=protocol)
    with pytest.raises(ProtocolError, match="1 training and 0 test slides"):
        check_fold(Fold(name="void", train=(0,), test=()), PATIENTS, protocol=protocol)


@pytest.mark.parametrize(
    ("patients", "rule", "groups"),
    [
        (["A", "B", "A", "C"], "patients", ((0, 2), (1,), (3,))),
        (["A", "A", "B"], "slides", ((0,), (1,), (2,))),
        (["A", "A", "A"], "slides", ((0,), (1,), (2,))),
        (["A", "B"], "fixed", ()),
        (["A"], "fixed", ()),
    ],
)
def test_inner_selection_falls_back_from_patients_to_slides_to_fixed(patients, rule, groups):
    selection = inner_selection([f"s{i}" for i in range(len(patients))], patients)
    assert (selection.rule, selection.groups) == (rule, groups)


def test_few_patients_are_warned_about_in_plain_words():
    (warning,) = patient_warnings(PATIENTS)
    assert warning.startswith("there are two patients (B, C)")
    (warning,) = patient_warnings(["C", "C"])
    assert warning.startswith("there is one patient (C)")
    assert patient_warnings(["A", "B", "C"]) == ()


def test_unknown_patients_are_warned_about_by_slide():
    unknown, few = patient_warnings(["unknown:s1", "P", "P"])
    assert "not known for 1 of 3 slides (s1)" in unknown
    assert "patient_id" in unknown
    assert few.startswith("there are two patients (unknown:s1, P)")
    (many,) = patient_warnings([f"unknown:s{i}" for i in range(8)])
    assert "(s0, s1, s2, s3, s4 and 3 more)" in many
