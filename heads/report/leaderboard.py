"""Records sorted into leaderboards: one for each protocol, backbone and set of views; heads, controls, diagnostics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...store.errors import ProtocolError
from ..comparison.comparison import Ceiling, Comparison, HeadDetail, Record
from ..comparison.numbers import DASH, number
from ..protocols.protocol import HEADLINE_FIELD, Protocol
from ..protocols.scores.scores import SCORE_RULES

AGGREGATE_FOLD = "all"

Kind = Literal["head", "control", "diagnostic"]


@dataclass(frozen=True)
class Row:
    """One line of a leaderboard.

    Parameters
    ----------
    label
        The head, with mode, options and seed as far as they tell it from the other lines.
    kind
        Whether it competes, is part of the floor, or looks at what no predictor has.
    aggregate
        The record of fold ``"all"``; without any score where a head has none.
    folds
        The records of the single folds.
    field
        The field of the score that ranks.
    """

    label: str
    kind: Kind
    aggregate: Record
    folds: tuple[Record, ...]
    field: str = HEADLINE_FIELD

    @property
    def score(self) -> float | None:
        """The score that ranks, None where there is none."""
        return number(self.aggregate, self.field)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval over patients, None below five patients."""
        low = number(self.aggregate, f"{self.field}_low")
        high = number(self.aggregate, f"{self.field}_high")
        return None if low is None or high is None else (low, high)

    @property
    def fold_scores(self) -> dict[str, float | None]:
        """The score of each fold, None where a fold has none."""
        return {str(fold.get("fold")): number(fold, self.field) for fold in self.folds}

    @property
    def fold_range(self) -> tuple[float, float] | None:
        """Lowest and highest score of a fold."""
        scores = [score for score in self.fold_scores.values() if score is not None]
        return (min(scores), max(scores)) if scores else None

    @property
    def per_patient(self) -> dict[str, float]:
        """The score of each patient that has one."""
        values = self.aggregate.get("per_patient" if self.field == HEADLINE_FIELD else "per_patient_score")
        if not isinstance(values, dict):
            return {}
        scores = {str(patient): number(values, patient) for patient in values}
        return {patient: score for patient, score in scores.items() if score is not None}


def kind_of(record: Record) -> Kind:
    """Return whether a record competes, is part of the floor, or is a diagnostic."""
    if record.get("diagnostic"):
        return "diagnostic"
    return "control" if record.get("control") else "head"


def rows_of(records: Sequence[Record], *, field: str = HEADLINE_FIELD) -> list[Row]:
    """Join each aggregate with its folds: by head, mode and seed, and by options where these are not enough.

    Parameters
    ----------
    records
        Of one leaderboard.
    field
        The score that ranks.

    Raises
    ------
    ProtocolError
        Where two aggregates cannot be told apart.
    """
    plain = [_identity(record) for record in records if _is_aggregate(record)]
    ambiguous = {identity for identity in plain if plain.count(identity) > 1}
    entries: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        identity = _identity(record)
        # A fold may record the value that it chose, so that options are compared only where they must be.
        full = (*identity, _options(record)) if identity in ambiguous else identity
        entries.setdefault(full, []).append(record)
    labels = _labels([group[0] for group in entries.values()])
    return [_row(label, group, field=field) for label, group in zip(labels, entries.values(), strict=True)]


def _row(label: str, records: Sequence[Record], *, field: str) -> Row:
    aggregates = [record for record in records if _is_aggregate(record)]
    if len(aggregates) > 1:
        msg = (
            f"{label} has {len(aggregates)} records of fold {AGGREGATE_FOLD!r} with one head, mode, seed and options; "
            "give each its own options, or compare them in reports of their own."
        )
        raise ProtocolError(msg)
    described = {name: records[0].get(name) for name in ("head", "mode", "seed", "options", "control", "diagnostic")}
    aggregate = aggregates[0] if aggregates else described
    folds = tuple(record for record in records if not _is_aggregate(record))
    return Row(label=label, kind=kind_of(aggregate), aggregate=aggregate, folds=folds, field=field)


def _labels(records: Sequence[Record]) -> list[str]:
    """Name each row as shortly as is clear: head and mode, then options, then the seed."""
    labels = [with_mode(record) for record in records]
    for describe in (_options_words, _seed_words):
        shared = {label for label in labels if labels.count(label) > 1}
        details = [describe(record) if label in shared else "" for label, record in zip(labels, records, strict=True)]
        labels = [f"{label}, {detail}" if detail else label for label, detail in zip(labels, details, strict=True)]
    return labels


def with_mode(record: Record) -> str:
    """Return the head, and its mode where it is not the default one."""
    mode = record.get("mode")
    return str(record.get("head")) if mode in (None, "", "default") else f"{record.get('head')} ({mode})"


def _options_words(record: Record) -> str:
    options = record.get("options")
    return ", ".join(f"{name}={value}" for name, value in options.items()) if isinstance(options, dict) else ""


def _seed_words(record: Record) -> str:
    return f"seed {record.get('seed')}"


def _identity(record: Record) -> tuple[str, ...]:
    return tuple(str(record.get(name)) for name in ("head", "mode", "seed"))


def _options(record: Record) -> str:
    return json.dumps(record.get("options"), sort_keys=True, default=str)


def _is_aggregate(record: Record) -> bool:
    return record.get("fold") == AGGREGATE_FOLD


def fold_names(rows: Iterable[Row]) -> list[str]:
    """Return the names of all folds, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.fold_scores))


Features = tuple[str, str]


@dataclass(frozen=True)
class Leaderboard:
    """One leaderboard; rows come best first, rows without a score last.

    Parameters
    ----------
    protocol_name, protocol
        The name in the records, and the protocol of that name, None where the comparison does not carry it.
    backbone, views
        What the heads read.
    heads, controls, diagnostics
        Its rows.
    score
        The field of the score that ranks.
    details
        What is known of a row beyond its records, by its label.
    ceiling
        How far the within-slide score can reach, None where it was not estimated.
    """

    protocol_name: str
    protocol: Protocol | None
    backbone: str
    views: str
    heads: tuple[Row, ...]
    controls: tuple[Row, ...]
    diagnostics: tuple[Row, ...]
    score: str = HEADLINE_FIELD
    details: Mapping[str, HeadDetail] = field(default_factory=dict)
    ceiling: Ceiling | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows: heads, then controls, then diagnostics."""
        return self.heads + self.controls + self.diagnostics

    @property
    def floor(self) -> float | None:
        """The best control's score, None without controls."""
        return self.controls[0].score if self.controls else None


def standings(comparison: Comparison) -> tuple[Leaderboard, ...]:
    """Return the leaderboards of a comparison, protocols in its order.

    Heads make the leaderboards. A control that reads other features than the heads do, or none, stands in every
    leaderboard of its protocol, since it is the floor of them all.

    Raises
    ------
    ProtocolError
        Where two aggregates of one head cannot be told apart, or a protocol ranks by a score of which lower is better.
    """
    names = dict.fromkeys(
        [*(one.name for one in comparison.protocols), *(str(record.get("protocol")) for record in comparison.records)]
    )
    boards = []
    for name in names:
        records = [record for record in comparison.records if str(record.get("protocol")) == name]
        contestants = dict.fromkeys(_features(record) for record in records if kind_of(record) == "head")
        features = contestants or dict.fromkeys(_features(record) for record in records)
        shared = _first_of_each([record for record in records if _features(record) not in features])
        for key in features:
            own = [record for record in records if _features(record) == key]
            boards.append(_standing(own + shared, key, name=name, comparison=comparison))
    return tuple(boards)


def _standing(records: Sequence[Record], features: Features, *, name: str, comparison: Comparison) -> Leaderboard:
    protocol = next((one for one in comparison.protocols if one.name == name), None)
    score = _ranking(protocol)
    rows = sorted(rows_of(records, field=score), key=lambda row: (row.score is None, -(row.score or 0.0)))
    details = {detail.line: detail for detail in comparison.details}
    return Leaderboard(
        protocol_name=name,
        protocol=protocol,
        backbone=features[0],
        views=features[1],
        heads=tuple(row for row in rows if row.kind == "head"),
        controls=tuple(row for row in rows if row.kind == "control"),
        diagnostics=tuple(row for row in rows if row.kind == "diagnostic"),
        score=score,
        details={row.label: details[_line(row, name)] for row in rows if _line(row, name) in details},
        ceiling=next((one for one in comparison.ceilings if one.protocol == name), None),
    )


def _ranking(protocol: Protocol | None) -> str:
    """The field that ranks; every floor and margin of the report takes higher for better."""
    score = HEADLINE_FIELD if protocol is None else protocol.score
    if score in SCORE_RULES and SCORE_RULES[score].better == "low":
        msg = f"Leaderboards rank by a score of which higher is better; {score} is none. Name a correlation in `score`."
        raise ProtocolError(msg)
    return score


def _line(row: Row, protocol: str) -> tuple[str, str, str, str]:
    """The line of a row, as `lines.line_of_record` names it."""
    record = row.folds[0] if row.folds else row.aggregate
    return protocol, str(record.get("backbone")), str(record.get("views")), with_mode(record)


def _features(record: Record) -> Features:
    """Name what a record's head reads: backbone and views."""
    backbone, views = record.get("backbone"), record.get("views")
    if isinstance(views, list | tuple):
        views = ", ".join(str(view) for view in views)
    return DASH if backbone is None else str(backbone), DASH if views is None else str(views)


def _first_of_each(records: Sequence[Record]) -> list[Record]:
    """Drop repetitions: a control that reads no features may have been run once for each backbone."""
    firsts: dict[str, Record] = {}
    for record in records:
        identity = [str(record.get(name)) for name in ("head", "mode", "seed", "options", "fold")]
        firsts.setdefault("|".join(identity), record)
    return list(firsts.values())
