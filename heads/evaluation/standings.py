"""Records sorted into leaderboards: one for each protocol, backbone and set of views; heads, controls, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...store.errors import ProtocolError
from .comparison import Comparison, Record
from .detail import Ceiling, HeadDetail
from .leaderboard_rows import HEADLINE_FIELD, Row, kind_of, rows_of, with_mode
from .numerals import DASH
from .protocol_record import Protocol
from .scores import SCORE_RULES

Features = tuple[str, str]


@dataclass(frozen=True)
class Standing:
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


def standings(comparison: Comparison) -> tuple[Standing, ...]:
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


def _standing(records: Sequence[Record], features: Features, *, name: str, comparison: Comparison) -> Standing:
    protocol = next((one for one in comparison.protocols if one.name == name), None)
    score = _ranking(protocol)
    rows = sorted(rows_of(records, field=score), key=lambda row: (row.score is None, -(row.score or 0.0)))
    details = {detail.line: detail for detail in comparison.details}
    return Standing(
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
