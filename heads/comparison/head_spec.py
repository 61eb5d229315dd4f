"""Who takes part in a comparison: a head in one of its modes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...store.errors import HeadError
from ..contract import Head, options_of, reads_tokens
from ..protocols.protocol import Protocol
from ..registry import HEADS, HeadEntry, make_head, parse_options, resolve_heads, takes_seed
from .comparison import Record

DEFAULT = "default"


@dataclass(frozen=True)
class HeadSpec:
    """A head in one mode and with options: `ridge:hest`, `nh2st:neighbours=both,anchor=ridge` on the command line.

    Attributes
    ----------
    mode
        "default", or what follows the colon: a mode, options, or a mode and options.
    """

    head: str
    mode: str = DEFAULT

    @property
    def label(self) -> str:
        """As in the tables: `ridge`, or `ridge (hest)`."""
        return self.head if self.mode == DEFAULT else f"{self.head} ({self.mode})"

    @property
    def entry(self) -> HeadEntry:
        """Of the registry."""
        return HEADS[self.head]

    def seed_under(self, protocol: Protocol, seed: int) -> int:
        """The paper's own seed for the modes that a protocol adds, else the one given."""
        own = (self.head, self.mode) in protocol.modes
        return protocol.seed if own and protocol.seed is not None else seed

    @property
    def reads_tokens(self) -> bool:
        """Whether the head reads token columns; one that cannot be made reads nothing, and says why when it is run."""
        try:
            return reads_tokens(self.make(0))
        except HeadError:
            return False

    def make(self, seed: int) -> Head:
        """Construct the head, seeded where it takes a seed.

        Raises
        ------
        HeadError
            If the head has no such mode or option.
        """
        seeded = {"seed": seed} if takes_seed(self.head) else {}
        return make_head(self.head, **seeded | parse_options("" if self.mode == DEFAULT else self.mode))


def contestants(names: Sequence[str], protocol: Protocol) -> tuple[HeadSpec, ...]:
    """Heads asked for, the paper's own modes of them that a protocol adds, and every control, without repeats.

    Parameters
    ----------
    names
        Heads, `all`, or `head:mode`.

    Raises
    ------
    HeadError
        If a head is unknown.
    """
    modes = [_parsed(name) for name in names if ":" in name]
    plain = [name for name in names if ":" not in name]
    heads = resolve_heads(plain) if plain else ()
    added = [HeadSpec(head, mode) for head, mode in protocol.modes if head in heads]
    controls = [HeadSpec(name) for name, entry in HEADS.items() if entry.control]
    return tuple(dict.fromkeys([*map(HeadSpec, heads), *modes, *added, *controls]))


def changed_options(head: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a record that differ from the head's defaults, nested ones by their last name.

    Parameters
    ----------
    head
        Its name; all options are returned of a head that is not in the registry.
    options
        As in `Record["options"]`. Mode and seed are left out: they are fields of their own.
    """
    usual = _flat(options_of(make_head(head))) if head in HEADS else {}
    changed = {
        name: value for name, value in _flat(options).items() if name not in usual or _json(value) != _json(usual[name])
    }
    return {name.rpartition(".")[2]: value for name, value in changed.items() if name not in ("mode", "seed")}


def _flat(options: Mapping[str, object], *, within: str = "") -> dict[str, object]:
    """Options with nested ones under dotted names, these first: an option's own value stands over a group's."""
    nested: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            nested |= _flat(value, within=f"{within}{name}.")
    return nested | {f"{within}{name}": value for name, value in options.items() if not isinstance(value, Mapping)}


def _json(value: object) -> str:
    """A value as text that is the same for a tuple and a list: cells read from disk hold lists."""
    return json.dumps(value, default=str)


def _parsed(name: str) -> HeadSpec:
    head, mode = name.split(":", 1)
    resolve_heads([head])
    if not mode or head == "all":
        msg = f"{name!r} is no head in a mode: write HEAD:MODE, such as ridge:hest, or HEAD:option=value,..."
        raise HeadError(msg)
    found = HeadSpec(head, mode)
    found.make(0)  # an option that does not exist is refused now, and not after other heads were trained
    return found


Line = tuple[str, str, str, str]
"""Protocol, backbone, views, label of the head; "None" where a head reads no features."""


def line_of_record(record: Record) -> Line:
    """The line that a record belongs to."""
    label = str(record["head"]) if record["mode"] == DEFAULT else f"{record['head']} ({record['mode']})"
    return str(record["protocol"]), str(record["backbone"]), str(record["views"]), label
