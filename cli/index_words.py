"""A search index in plain sentences: how true its answers are, and how slides and patients mix in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..store.index_record import IndexRecord
    from ..store.mixing import Share

MIXED, APART = 0.1, 0.5
"""Separation up to which slides count as mixed, and from which as standing apart."""

NAMED = 3


def recall_words(record: IndexRecord) -> list[str]:
    """The measured recall of inverted lists; nothing of an exact index."""
    ivf = record.ivf
    if ivf is None:
        return []
    asked = {"none": "all rows allowed", "slide": "own slide left out", "patient": "own patient left out"}
    lines = [f"  recall@{ivf.k} measured on {ivf.queries} of its patches, {ivf.target:g} asked for:"]
    for name, words in asked.items():
        short = "" if ivf.recall[name] >= ivf.target else "  NOT REACHED: build with `--kind exact`"
        lines.append(f"    {words}: {ivf.recall[name]:.4f}, looking at {ivf.nprobe[name]} of {ivf.nlist} lists{short}")
    return lines


def mixing_words(record: IndexRecord) -> list[str]:
    """Whose neighbours are whose, beside what perfect mixing would give."""
    report = record.mixing
    if report is None:
        return []
    lines = [f"  mixing, over the {report.k} nearest patches of {report.queries}:"]
    for what, share, parts in (("slide", report.slide, report.slides), ("patient", report.patient, report.patients)):
        if len(parts) < 2:
            lines.append(f"    one {what} only: there is nothing to mix")
            continue
        lines.append(
            f"    {share.own:.0%} of them are of the patch's own {what}, {share.expected:.0%} would be under perfect "
            f"mixing: {_verdict(share, what)}"
        )
        worst = sorted((one for one in parts if one.separation > APART), key=lambda one: -one.separation)
        if worst:
            named = ", ".join(f"{one.name} ({one.own:.0%}, {one.expected:.0%} expected)" for one in worst[:NAMED])
            more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
            lines.append(f"    most apart: {named}{more}")
    return lines


def _verdict(share: Share, what: str) -> str:
    if share.separation <= MIXED:
        return f"{what}s mix"
    if share.separation < APART:
        return f"{what}s stand partly apart"
    return f"{what}s stand apart, by stain, scanner or tissue. Search with `--exclude {what}`" + (
        ", or index with `--standardise slide`" if what == "slide" else ""
    )
