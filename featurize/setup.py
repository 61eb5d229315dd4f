"""What a run needs before its first slide: the cohort's share, the encoders, and the plan that is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.errors import BackboneError, CohortError
from .job_plan import Plan
from .options import DENSITY, FeaturizeOptions

if TYPE_CHECKING:
    from .backbones.encoder import Encoder
    from .sources.sample import Cohort


def cohort_of(source: str | Path, options: FeaturizeOptions, *, format: str) -> Cohort:
    """The slides of a source, or this job's share of them; the first share has those that are refused.

    Raises
    ------
    TissuaryError
        If the source cannot be read, or no slide of it can be used.
    """
    from .sources.gaps import announce
    from .sources.load import load_cohort
    from .workers.shards import shard_of

    cohort = load_cohort(Path(source), format=format, pitch_um=options.pitch_um)
    if options.share is None:
        announce(cohort, mpp=options.mpp)
        return cohort
    samples = shard_of(cohort.samples, options.share)
    said = f"{cohort.source}; shard {options.share}: {len(samples)} of {len(cohort.samples)} slides"
    mine = replace(cohort, samples=samples, source=said)
    if options.share.index:
        mine = replace(mine, refused=(), left_out=())
    announce(mine, mpp=options.mpp)
    return mine


def stored_names(options: FeaturizeOptions) -> tuple[str, ...]:
    """The part of the feature keys before the `@`, one per backbone asked for, known without loading weights."""
    from .backbones.record import RANDOM_SUFFIX
    from .backbones.registry import get_record

    if options.name is not None:
        return (options.name,)
    records = [get_record(name) for name in options.backbones]
    return tuple(
        record.key + (RANDOM_SUFFIX if options.weights.get(record.key) == "random" else "") for record in records
    )


def build_encoders(options: FeaturizeOptions) -> dict[str, Encoder]:
    """The encoders of a run, by the name their features are stored under.

    The one-number haematoxylin density is always among them.

    Raises
    ------
    BackboneError
        If a record, weights file or architecture cannot be used.
    """
    from .backbones.build import build_encoder
    from .backbones.registry import get_record

    records = [get_record(name) for name in options.backbones]
    unused = set(options.weights) - {record.key for record in records}
    if unused:
        msg = (
            f"weights were given for {', '.join(sorted(unused))}, which is not among the backbones "
            f"{', '.join(record.key for record in records)}"
        )
        raise CohortError(msg)
    device = first_device(options)
    built = [
        build_encoder(
            record,
            weights=options.weights.get(record.key),
            device=device,
            precision=options.precision,
            compiled=options.compiled,
        )
        for record in records
    ]
    names = [options.name or encoder.record.key for encoder in built]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"two backbones are called {', '.join(twice)}: one would hide the other; give each record its own key"
        raise CohortError(msg)
    encoders = dict(zip(names, built, strict=True))
    for encoder in built:
        _check_grids(encoder, options.token_grids)
    encoders.setdefault(DENSITY, build_encoder(get_record(DENSITY), weights=None, device=device))
    return encoders


def _check_grids(encoder: Encoder, grids: Sequence[tuple[int, int]]) -> None:
    """Refuse token grids that a backbone does not have, before anything is read."""
    record = encoder.record
    for rows, columns in grids:
        own = record.token_grid
        if own is None or rows > own[0] or columns > own[1]:
            has = "no tokens" if own is None else f"{own[0]}x{own[1]} tokens"
            msg = f"backbone {record.key} has {has}, not {rows}x{columns}: ask for fewer, or leave --tokens out"
            raise BackboneError(msg)


def plan_of(options: FeaturizeOptions, encoders: dict[str, Encoder]) -> Plan:
    """Where this run computes, with the batch asked for or the one that suits the device."""
    import torch

    from .batch_size import automatic_batch

    device = torch.device(first_device(options))
    batch = options.batch or automatic_batch(tuple(encoders.values()), device=str(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Plan(batch, options.threads or torch.get_num_threads(), name, torch.__version__, options.compiled)


def first_device(options: FeaturizeOptions) -> str:
    """Name of the device, for torch; the first where there are several."""
    wanted = options.devices[0]
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
