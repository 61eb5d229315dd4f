"""What one line of a leaderboard is called."""

from __future__ import annotations

from .comparison import Record
from .contestants import DEFAULT

Line = tuple[str, str, str, str]
"""Protocol, backbone, views, label of the head; "None" where a head reads no features."""


def line_of_record(record: Record) -> Line:
    """The line that a record belongs to."""
    label = str(record["head"]) if record["mode"] == DEFAULT else f"{record['head']} ({record['mode']})"
    return str(record["protocol"]), str(record["backbone"]), str(record["views"]), label
