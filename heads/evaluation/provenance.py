"""What a reader needs to run a comparison again."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from ...store.naming import FeatureKey
from ...store.store import Store
from ...store.table import Table
from .feature_sets import FeatureSet

if TYPE_CHECKING:
    from .compare import CompareOptions

VERSIONS = ("tissuary", "torch", "numpy", "scipy", "scikit-learn", "scanpy")


def provenance(store: Store, table: Table, sets: Sequence[FeatureSet], *, options: CompareOptions) -> dict[str, object]:
    """Store, command, fingerprints, licences, versions and machine of a comparison."""
    keys = tuple(dict.fromkeys(key for one in sets for key in one.keys))
    headers = {key: store.header(key, table.slide_ids[0], patches=options.patches) for key in keys}
    return {
        "store": store.path.name,
        "command": command(store, options),
        "spots": len(table),
        "slides": len(table.slide_ids),
        "synthetic_slides": [slide for slide in table.slide_ids if store.slide(slide).synthetic],
        "patches": options.patches,
        "fingerprints": {key: header.fingerprint for key, header in headers.items()},
        "licences": {FeatureKey.parse(key).encoder: header.record.get("licence") for key, header in headers.items()},
        "upsampling": {key: round(header.upsampling, 3) for key, header in headers.items()},
        "seed": options.seed,
        "versions": {name: version(name) for name in VERSIONS},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def synthetic_sentence(provenance: Mapping[str, object]) -> str | None:
    """Return what synthetic slides mean for the scores; None without any.

    Parameters
    ----------
    provenance
        Of a comparison: "slides" is their number, "synthetic_slides" the ids of those whose picture is synthetic.
    """
    synthetic, slides = provenance.get("synthetic_slides"), provenance.get("slides")
    if not isinstance(synthetic, list) or not synthetic:
        return None
    if len(synthetic) == slides:
        return (
            f"A program drew all {slides} slides and their counts: scores show that the software works, and nothing "
            "of real tissue."
        )
    return f"A program drew {len(synthetic)} of {slides} slides and their counts: {', '.join(map(str, synthetic))}."


def command(store: Store, options: CompareOptions) -> str:
    """The command line that makes the same comparison; LIST stands for the genes in `provenance.json`."""
    words = ["tissuary compare", store.path.name, "--heads", *options.heads, "--protocol", *options.protocols]
    if options.backbones:
        words += ["--backbone", *options.backbones]
    if len(options.view_sets) == 1:
        words += ["--views", *options.view_sets[0]]
    elif options.view_sets:
        words += ["--view-sets", *("+".join(views) for views in options.view_sets)]
    for name, value in (
        ("--standardise", options.standardise),
        ("--centring", options.centring),
        ("--spot-weight", options.spot_weight),
        ("--panel", "LIST" if isinstance(options.panel, tuple) else options.panel),
        ("--panel-size", options.panel_size),
    ):
        words += [] if value is None else [name, str(value)]
    if options.genes:
        words += ["--genes", *options.genes]
    return " ".join([*words, "--seed", str(options.seed)])
