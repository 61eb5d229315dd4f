"""Fixed panels: marker genes and published lists, from a file or by name."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ....store.arrays import Ints, Strings
from ....store.errors import ProtocolError
from ..counts import SpotCounts
from .rules import PanelRule

log = logging.getLogger(__name__)

SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMN = "gene"
NAMED = 10
"""Unknown genes that a message spells out."""


def read_gene_list(path: Path, *, column: str | None = None) -> tuple[str, ...]:
    """Read names of genes in the order of a file, each once.

    Parameters
    ----------
    path
        ``.csv`` or ``.tsv`` with a header; ``.json``, a list or an object with the list under "genes", as HEST's
        ``var_50genes.json``; any other name is text with one gene a line, in which ``#`` starts a comment.
    column
        Column of a table; the only one, or that called "gene", where not given.

    Raises
    ------
    ProtocolError
        If the file cannot be read, holds no gene, or has no such column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as a list of genes ({error}); give a text, CSV, TSV or JSON file in UTF-8."
        raise ProtocolError(msg) from error
    kind = path.suffix.lower()
    if kind in SEPARATORS:
        found = _column(text, path, separator=SEPARATORS[kind], column=column)
    elif kind == ".json":
        found = _json_list(text, path)
    else:
        found = [line.partition("#")[0] for line in text.splitlines()]
    names = tuple(dict.fromkeys(name.strip() for name in found if name.strip()))
    if not names:
        msg = f"{path} names no gene; write one a line, or one a row of a CSV column."
        raise ProtocolError(msg)
    return names


def _column(text: str, path: Path, *, separator: str, column: str | None) -> list[str]:
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    header = [name.strip() for name in rows[0]] if rows else []
    wanted = column or (header[0] if len(header) == 1 else COLUMN)
    if wanted not in header:
        msg = f"{path} has no column {wanted!r}; it has {', '.join(header) or 'none'}. Name the one with the genes."
        raise ProtocolError(msg)
    at = header.index(wanted)
    return [row[at] for row in rows[1:] if len(row) > at]


def _json_list(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{path} is no JSON ({error}); give a list of names, or an object with one under 'genes'."
        raise ProtocolError(msg) from error
    names = content.get("genes") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        msg = f"{path} holds no list of gene names; give a list of strings, or an object with one under 'genes'."
        raise ProtocolError(msg)
    return names


def fixed_rule(names: Sequence[str], *, unknown: str = "refuse", summary: str = "a fixed list of genes") -> PanelRule:
    """Return the rule that takes the genes of a list, in its order; a size takes the first of them.

    Parameters
    ----------
    names
        Genes, each once.
    unknown
        What is done with genes that are not measured on every slide: "refuse", or "leave out", which logs a warning
        that names them.
    summary
        Where the list is from.

    Raises
    ------
    ProtocolError
        If the list is empty, or names a gene twice, or `unknown` is another word. From the rule: if genes are unknown,
        or all of them are.
    """
    if unknown not in ("refuse", "leave out"):
        msg = f"unknown = {unknown!r}; choose refuse or leave out."
        raise ProtocolError(msg)
    if not len(names):
        msg = "The list names no gene; give at least one."
        raise ProtocolError(msg)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        msg = f"The list names gene {twice!r} more than once; name each gene once."
        raise ProtocolError(msg)
    listed = np.array(names, dtype=np.str_)
    return PanelRule(partial(_listed, names=listed, refuse=unknown == "refuse"), summary, len(listed))


def _listed(counts: SpotCounts, size: int, *, names: Strings, refuse: bool) -> Ints:
    position = {gene: i for i, gene in enumerate(counts.genes.tolist())}
    missing = [name for name in names.tolist() if name not in position]
    if missing:
        spelt = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        say = f"{len(missing)} of {len(names)} listed genes are not measured on every slide: {spelt}"
        if refuse or len(missing) == len(names):
            msg = f"{say}. Correct or remove them; names are matched exactly."
            raise ProtocolError(msg)
        log.warning("%s; the panel goes without them", say)
    return np.array([position[name] for name in names.tolist() if name in position], dtype=np.int64)[:size]
