"""Genes of several slides: which all of them measured, and why others are not among those."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Bools, Strings

MUCH = 0.25
"""Share of a slide's genes from which losing them is worth a warning."""

# Of ids of Ensembl and RefSeq alone: AC009299.1 and AC009299.2 are two genes.
_VERSION = re.compile(r"^(ENS[A-Z]*\d{6,}|[NX][MR]_\d+)\.\d+")
_GENOME = re.compile(r"^(?:GRC[hmr]|hg|mm|rn)\d+_+", re.IGNORECASE)  # Cell Ranger's, where a reference holds several
SPELLINGS: dict[str, Callable[[str], str]] = {
    "version numbers": lambda name: _VERSION.sub(r"\1", name),
    "case": str.casefold,
    "genome prefixes": lambda name: _GENOME.sub("", name),
    "punctuation": lambda name: re.sub(r"[\W_]+", ".", name.strip()),  # R's make.names writes HLA.A for HLA-A
}
"""Ways in which one gene is spelt differently -> the spelling without that difference."""


@dataclass(frozen=True)
class SharedGenes:
    """How many genes slides share, and what they lose.

    Attributes
    ----------
    shared
        Genes measured on every slide.
    lost
        (n_slides,) genes of each slide that others did not measure.
    respelt
        Genes more that would be shared if names were spelt alike.
    differ_in
        In what these differ: keys of `SPELLINGS`.
    example
        Two spellings of one of them.
    """

    shared: int
    lost: tuple[int, ...]
    respelt: int = 0
    differ_in: tuple[str, ...] = ()
    example: tuple[str, str] | None = None

    @property
    def is_much(self) -> bool:
        """Whether a slide loses more than `MUCH` of its genes, or any for their spelling."""
        return self.respelt > 0 or max(self.lost) > MUCH * (self.shared + max(self.lost))

    def words(self, slide_ids: Sequence[str]) -> str:
        """One line for people."""
        by_loss: dict[int, list[str]] = {}
        for slide, lost in zip(slide_ids, self.lost, strict=True):
            by_loss.setdefault(lost, []).append(slide)
        listed = [
            f"{lost} of {self.shared + lost} on {_listed(slides)}" for lost, slides in sorted(by_loss.items())[::-1]
        ]
        more = f" and so on, at least {min(self.lost)}" if len(listed) > 4 else ""
        line = f"{self.shared} genes are shared by all {len(slide_ids)} slides; left out: {', '.join(listed[:4])}{more}"
        if self.example is None:
            return line
        return (
            f"{line}. {self.respelt} of them differ only in {' and '.join(self.differ_in)} ({self.example[0]} and "
            f"{self.example[1]}): spell genes alike in the sources to keep them"
        )


def gene_union(genes_by_slide: Sequence[Strings]) -> tuple[Strings, Bools]:
    """Genes of any slide in the order in which they are met, and (n_slides, n_genes) which slide measured which."""
    position: dict[str, int] = {}
    for names in genes_by_slide:
        for name in names:
            position.setdefault(str(name), len(position))
    measured = np.zeros((len(genes_by_slide), len(position)), dtype=np.bool_)
    for slide, names in enumerate(genes_by_slide):
        measured[slide, [position[str(name)] for name in names]] = True
    return np.array(list(position), dtype=np.str_), measured


def shared_genes(names: Strings, measured: Bools) -> SharedGenes:
    """Count what slides share, and find genes that are lost for their spelling alone.

    Parameters
    ----------
    names, measured
        As `gene_union` gives them.
    """
    shared = int(measured.all(axis=0).sum())
    lost = tuple(int(n) - shared for n in measured.sum(axis=1))
    if not any(lost):
        return SharedGenes(shared, lost)

    def gained(ways: Sequence[str]) -> tuple[int, tuple[str, str] | None]:
        return _shared_if_spelt_alike(names, measured, ways)

    more, example = gained(tuple(SPELLINGS))
    if more <= shared or example is None:
        return SharedGenes(shared, lost)
    alone = tuple(way for way in SPELLINGS if gained((way,))[0] > shared)
    return SharedGenes(shared, lost, more - shared, alone or tuple(SPELLINGS), example)


def _shared_if_spelt_alike(names: Strings, measured: Bools, ways: Sequence[str]) -> tuple[int, tuple[str, str] | None]:
    """Number of genes on every slide after re-spelling, and two spellings of one that was not before."""
    spelt = list(map(str, names))
    for way in ways:
        spelt = list(map(SPELLINGS[way], spelt))
    unique, first, inverse = np.unique(np.array(spelt, dtype=np.str_), return_index=True, return_inverse=True)
    merged = np.zeros((len(measured), len(unique)), dtype=np.bool_)
    for slide, own in enumerate(measured):
        merged[slide, inverse[own]] = True
    before = np.zeros(len(unique), dtype=np.bool_)
    before[inverse[measured.all(axis=0)]] = True
    common = merged.all(axis=0)
    gained = np.flatnonzero(common & ~before)
    if not len(gained):
        return int(common.sum()), None
    at = int(gained[np.argmin(first[gained])])
    spellings = names[inverse == at][:2]
    return int(common.sum()), (str(spellings[0]), str(spellings[-1]))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
