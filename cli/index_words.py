"""A search index in plain sentences: how true its answers are, and how slides and patients mix in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..store.naming import UNKNOWN_PATIENT

if TYPE_CHECKING:
    from ..store.search.record import IndexRecord, Mixing, Share

MIXED, APART = 0.1, 0.5
"""Separation up to which slides count as mixed, and from which as standing apart."""

GAIN = 0.05
"""Separation by which another standardisation must be lower to be called better."""

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


def how_measured(record: IndexRecord, *, exclude: str | None = None, exact: bool = False) -> str:
    """What a distance is, and whether the nearest are all found, in one sentence.

    Parameters
    ----------
    exclude
        What was left out: the recall of inverted lists was measured for each.
    exact
        Whether every patch was looked at.
    """
    within = {"none": "features as stored", "cohort": "features standardised within the cohort"}.get(
        record.standardised, "features standardised within each slide"
    )
    away = "1 - cosine (0 to 2)" if record.metric == "cosine" else "the negative inner product"
    if record.ivf is None or exact:
        return f"distance is {away} of {within}; every patch was looked at"
    recall = record.ivf.recall.get(exclude or "none", float("nan"))
    return (
        f"distance is {away} of {within}; approximate: {recall:.1%} of the true {record.ivf.k} nearest were found when "
        "the index was built (`--exact` looks at every patch)"
    )


def image_words(record: IndexRecord) -> list[str]:
    """Slides that are one image under several ids."""
    named = [", ".join(record.slide_ids[one] for one in copies) for copies in record.copies]
    return [f"  {names} are one image: `--exclude` leaves them out together" for names in named]


def mixing_words(record: IndexRecord) -> list[str]:
    """Whose neighbours are whose, beside what perfect mixing would give."""
    report = record.mixing
    if report is None:
        return []
    lines = [f"  mixing, over the {report.k} nearest patches of {report.queries}:"]
    unknown = sum(patient.startswith(UNKNOWN_PATIENT) for patient in record.patient_ids)
    for what, share, parts in (("slide", report.slide, report.slides), ("patient", report.patient, report.patients)):
        if what == "patient" and unknown:
            slides = "every slide" if unknown == len(record.patient_ids) else f"{unknown} slides"
            lines.append(f"    the patient of {slides} is unknown: each counts as a patient of its own")
            if unknown == len(record.patient_ids):
                continue
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
        if what == "slide" and share.separation > MIXED:
            lines.append(f"    {_standardise_words(report, record.standardised)}")
    return lines


def _verdict(share: Share, what: str) -> str:
    if share.separation <= MIXED:
        return f"{what}s mix"
    if share.separation < APART:
        return f"{what}s stand partly apart"
    return f"{what}s stand apart, by stain, scanner or tissue. Search with `--exclude {what}`"


def _standardise_words(report: Mixing, now: str) -> str:
    """Whether slides would mix better under another standardisation: measured, never guessed."""
    if now not in report.compared:
        return "`--rebuild` measures whether slides mix better under another `--standardise`"
    best = min(report.compared, key=lambda within: report.compared[within])
    others = {within: value for within, value in report.compared.items() if within != now}
    said = " and ".join(f"{value:.2f} with `--standardise {within}`" for within, value in others.items())
    measured = (
        f"(separation {report.compared[now]:.2f} as it is, {said}, among the same {report.compared_rows} patches)"
    )
    if report.compared[now] - report.compared[best] <= GAIN:
        return f"another `--standardise` would not mix them better {measured}"
    return f"`--standardise {best}` mixes them better {measured}"
