"""Which licences bind the numbers of a report, in words."""

from __future__ import annotations

from collections.abc import Mapping

# What the names of licences say about use; the licence's own text holds.
NON_COMMERCIAL = ("nc", "noncommercial", "research")


def licence_sentences(provenance: Mapping[str, object]) -> tuple[str, ...]:
    """Return one sentence for each encoder whose features were used.

    Parameters
    ----------
    provenance
        Of the comparison; ``"licences"`` maps encoders to the names of their licences.
    """
    licences = provenance.get("licences")
    if not isinstance(licences, Mapping):
        return ()
    return tuple(_sentence(str(encoder), licence) for encoder, licence in licences.items())


def _sentence(encoder: str, licence: object) -> str:
    if licence is None or str(licence).strip().lower() in ("", "none", "unknown"):
        return f"Features of {encoder}: no licence is recorded; find out what its weights allow before sharing results."
    name = str(licence)
    words = name.lower().replace("_", "-").replace(" ", "-").split("-")
    bound = any(word in words for word in NON_COMMERCIAL) or "non-commercial" in name.lower()
    use = " It excludes commercial use, of heads trained on these features as well." if bound else ""
    return f"Features of {encoder}: {name}.{use}"
