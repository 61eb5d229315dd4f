"""Records sorted into leaderboards: one for each protocol, backbone and set of views; heads, controls, diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .comparison import Comparison, Record
from .leaderboard_rows import Row, kind_of, rows_of
from .numerals import DASH
from .protocols import Protocol

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
    """

    protocol_name: str
    protocol: Protocol | None
    backbone: str
    views: str
    heads: tuple[Row, ...]
    controls: tuple[Row, ...]
    diagnostics: tuple[Row, ...]

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
        Where two aggregates of one head cannot be told apart.
    """
    protocols = {protocol.name: protocol for protocol in comparison.protocols}
    names = dict.fromkeys([*protocols, *(str(record.get("protocol")) for record in comparison.records)])
    boards = []
    for name in names:
        records = [record for record in comparison.records if str(record.get("protocol")) == name]
        contestants = dict.fromkeys(_features(record) for record in records if kind_of(record) == "head")
        features = contestants or dict.fromkeys(_features(record) for record in records)
        shared = _first_of_each([record for record in records if _features(record) not in features])
        for key in features:
            own = [record for record in records if _features(record) == key]
            boards.append(_standing(own + shared, key, name=name, protocol=protocols.get(name)))
    return tuple(boards)


def _standing(records: Sequence[Record], features: Features, *, name: str, protocol: Protocol | None) -> Standing:
    rows = sorted(rows_of(records), key=lambda row: (row.score is None, -(row.score or 0.0)))
    return Standing(
        protocol_name=name,
        protocol=protocol,
        backbone=features[0],
        views=features[1],
        heads=tuple(row for row in rows if row.kind == "head"),
        controls=tuple(row for row in rows if row.kind == "control"),
        diagnostics=tuple(row for row in rows if row.kind == "diagnostic"),
    )


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
