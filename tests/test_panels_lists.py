import json
import logging

import numpy as np
import pytest
from scipy import sparse

from tissuary.heads.protocols.counts import SpotCounts
from tissuary.heads.protocols.panels.gene_lists import fixed_rule, read_gene_list
from tissuary.store.errors import ProtocolError

COUNTS = SpotCounts(
    sparse.csr_matrix(np.ones((2, 4))),
    np.array(["ACTB", "ERBB2", "GFAP", "MBP"]),
    np.full(2, 4.0),
    np.zeros(2, int),
    np.zeros((2, 2)),
)


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("markers.txt", "MBP\n\n  ACTB  # house-keeping\n# others\nGFAP\nMBP\n"),
        ("markers", "\ufeffMBP\r\nACTB\r\nGFAP"),
        ("markers.csv", "symbol\nMBP\nACTB\nGFAP\n"),
        ("markers.csv", 'type,gene\noligo,MBP\n"cell, any",ACTB\nshort\nastro,GFAP\n'),
        ("markers.TSV", "gene\ttype\nMBP\toligo\nACTB\tany\nGFAP\tastro\n"),
        ("var_50genes.json", json.dumps({"genes": ["MBP", "ACTB", "GFAP"]})),
        ("list.json", json.dumps(["MBP", "ACTB", "GFAP"])),
    ],
)
def test_a_list_is_read_in_its_order_each_gene_once(tmp_path, name, text):
    assert read_gene_list(written(tmp_path, name, text)) == ("MBP", "ACTB", "GFAP")


def test_a_column_may_be_named(tmp_path):
    path = written(tmp_path, "m.csv", "gene,ensembl\nMBP,ENSG1\nACTB,ENSG2\n")
    assert read_gene_list(path, column="ensembl") == ("ENSG1", "ENSG2")
    with pytest.raises(ProtocolError, match=r"m\.csv has no column 'symbol'; it has gene, ensembl"):
        read_gene_list(path, column="symbol")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("empty.txt", "# nothing\n\n", "names no gene; write one a line"),
        ("empty.csv", "gene\n", "names no gene"),
        ("nothing.csv", "", "has no column 'gene'; it has none"),
        ("two.csv", "a,b\n1,2\n", "has no column 'gene'; it has a, b"),
        ("bad.json", "{", "is no JSON"),
        ("other.json", '{"panel": ["MBP"]}', "holds no list of gene names"),
        ("numbers.json", "[1, 2]", "holds no list of gene names"),
    ],
)
def test_files_without_genes_are_refused(tmp_path, name, text, match):
    with pytest.raises(ProtocolError, match=match):
        read_gene_list(written(tmp_path, name, text))


def test_files_that_are_no_text_are_refused(tmp_path):
    with pytest.raises(ProtocolError, match="cannot be read as a list of genes"):
        read_gene_list(tmp_path / "absent.txt")
    (tmp_path / "genes.npy").write_bytes(b"\x93NUMPY\xff\xfe")
    with pytest.raises(ProtocolError, match="give a text, CSV, TSV or JSON file"):
        read_gene_list(tmp_path / "genes.npy")


def test_a_fixed_panel_keeps_the_order_of_its_list():
    rule = fixed_rule(["MBP", "ACTB", "GFAP"], summary="markers of Smith et al.")
    assert rule.choose(COUNTS).tolist() == [3, 0, 2]
    assert rule.choose(COUNTS, 2).tolist() == [3, 0]
    assert rule.summary == "markers of Smith et al."


def test_unknown_genes_are_named(caplog):
    wanted = ["MBP", "Erbb2", "TP53", "ACTB"]
    with pytest.raises(ProtocolError, match="2 of 4 listed genes are not measured on every slide: Erbb2, TP53"):
        fixed_rule(wanted).choose(COUNTS)
    with caplog.at_level(logging.WARNING):
        assert fixed_rule(wanted, unknown="leave out").choose(COUNTS).tolist() == [3, 0]
    assert "Erbb2, TP53; the panel goes without them" in caplog.text
    with pytest.raises(ProtocolError, match=r"12 of 12 listed genes .*x9 and 2 more"):
        fixed_rule([f"x{i}" for i in range(12)], unknown="leave out").choose(COUNTS)


def test_lists_that_are_none_are_refused():
    with pytest.raises(ProtocolError, match="names no gene; give at least one"):
        fixed_rule([])
    with pytest.raises(ProtocolError, match="names gene 'MBP' more than once"):
        fixed_rule(["MBP", "ACTB", "MBP"])
    with pytest.raises(ProtocolError, match="unknown = 'ignore'; choose refuse or leave out"):
        fixed_rule(["MBP"], unknown="ignore")
