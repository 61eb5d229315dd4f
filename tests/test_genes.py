"""What slides lose where their genes are not the same, and why."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tissuary.store.files.expression import Expression, read_expression, write_expression
from tissuary.store.files.schema import expression_path
from tissuary.store.genes import gene_union, shared_genes

ENSEMBL = [f"ENSG{i:011d}" for i in range(16)]


def found(*slides):
    return shared_genes(*gene_union([np.array(names, dtype=np.str_) for names in slides]))


@pytest.mark.parametrize(
    ("one", "other", "differ_in", "respelt", "example"),
    [
        ([f"{g}.1" for g in ENSEMBL], ENSEMBL, ("version numbers",), 16, (f"{ENSEMBL[0]}.1", ENSEMBL[0])),
        (["ACTB", "CD3E", "HLA-A"], ["Actb", "Cd3e", "HLA-A"], ("case",), 2, ("ACTB", "Actb")),
        (["GRCh38_ACTB", "FN1"], ["ACTB", "FN1"], ("genome prefixes",), 1, ("GRCh38_ACTB", "ACTB")),
        (["HLA-A", "FN1"], ["HLA.A", "FN1"], ("punctuation",), 1, ("HLA-A", "HLA.A")),
        (["GRCh38_HLA-A"], ["hla.a"], ("version numbers", "case", "genome prefixes", "punctuation"), 1, None),
        (["ACTB", "FN1"], ["ACTB", "FN2"], (), 0, None),
        (["AC009299.1", "FN1"], ["AC009299.2", "FN1"], (), 0, None),
    ],
)
def test_genes_lost_for_their_spelling_are_found(one, other, differ_in, respelt, example):
    result = found(one, other)
    assert (result.shared, result.differ_in, result.respelt) == (len({*one} & {*other}), differ_in, respelt)
    assert example is None or result.example == example


@given(st.lists(st.lists(st.sampled_from("abAB-."), min_size=1, unique=True), min_size=1, max_size=4))
def test_what_is_shared_and_lost_adds_up(slides):
    result = found(*slides)
    assert [result.shared + lost for lost in result.lost] == [len(names) for names in slides]
    assert result.shared + result.respelt <= min(map(len, slides))
    assert (result.respelt > 0) == (result.example is not None)


def test_the_table_says_in_one_line_what_its_slides_lose(make_store, caplog):
    store = make_store({"a": ("P", 4), "b": ("Q", 4)}, n_genes=16)
    for slide, names in (("a", [f"{g}.{1 + i % 3}" for i, g in enumerate(ENSEMBL)]),
                         ("b", [f"{g}.{1 + i % 2}" for i, g in enumerate(ENSEMBL)])):  # fmt: skip
        path = expression_path(store.path, slide)
        was = read_expression(path)
        path.unlink()
        renamed = Expression(was.counts, np.array(names, dtype=np.str_), was.barcode)
        write_expression(path, renamed, store.patches(slide), slide_id=slide)
    with caplog.at_level(logging.WARNING):
        table = store.table("toy@20x", expression=True)
    same = sum(i % 3 == i % 2 for i in range(16))
    assert table.genes.tolist() == [f"{g}.{1 + i % 3}" for i, g in enumerate(ENSEMBL) if i % 3 == i % 2]
    (line,) = [one.getMessage() for one in caplog.records]
    assert line == (
        f"{same} genes are shared by all 2 slides; left out: {16 - same} of 16 on a, b. {16 - same} of them differ "
        "only in version numbers (ENSG00000000002.3 and ENSG00000000002.1): spell genes alike in the sources to keep "
        "them"
    )
