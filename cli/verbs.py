"""Every verb, with the examples that its help shows and what Ctrl-C leaves of it."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from .backbones import backbones
from .compare import compare
from .demo import demo
from .doctor import doctor
from .export import export
from .featurize import featurize
from .import_ import import_
from .index import index
from .output import STOPPED, say
from .predict import predict
from .protocols import protocols
from .search import search
from .status import status
from .train import train
from .verify import verify

AGAIN = "The same command goes on from there"
FROM_START = "The same command begins again"
NOTHING = f"Nothing was written. {FROM_START}"


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes
    ----------
    run
        The function that typer reads options from.
    examples
        Command lines without the name of the program.
    stopped
        What is kept when it is stopped, and how to go on; `{out}` and the like are its options.
    """

    run: Callable[..., None]
    examples: tuple[str, ...]
    stopped: str = NOTHING

    @property
    def name(self) -> str:
        """As it is written on the command line; `import` is a word of Python's own."""
        return self.run.__name__.rstrip("_")

    @property
    def epilog(self) -> str:
        """The examples below the help, each on a line of its own."""
        return "\n".join(["\b", "Examples:", *(f"  tissuary {one}" for one in self.examples)])


VERBS = (
    Verb(
        demo,
        ("demo --out demo", "demo --data COHORT --out DIR --views 20x 5x"),
        f"Features and trained cells that are done are kept in {{out}}. {AGAIN}",
    ),
    Verb(
        featurize,
        (
            "featurize COHORT --store cohort.store --dry-run",
            "featurize COHORT --store cohort.store --views 20x 5x",
            "featurize slides/ --store S --patches grid --grid-um 112 --mpp 0.5",
            "featurize COHORT --store S --backbone uni --weights uni=uni.bin",
        ),
        f"Slides that are done are kept in {{store}}, and the slide in work up to its last block. {AGAIN}",
    ),
    Verb(status, ("status cohort.store", "status cohort.store --json")),
    Verb(verify, ("verify cohort.store",), f"Nothing was changed; what was read until now is not kept. {FROM_START}"),
    Verb(
        index,
        (
            "index cohort.store",
            "index cohort.store --key stain-texture@20x --standardise slide",
        ),
        "Indexes that are whole are kept in {store}/indexes. The same command makes the others",
    ),
    Verb(
        search,
        (
            "search cohort.store --slide C2 --patch 17 -k 10 --exclude patient",
            "search cohort.store --slide C2 --patch 17 --report look-alikes.html",
            "search cohort.store --slide C2 --all --out look-alikes.parquet",
        ),
    ),
    Verb(
        compare,
        (
            "compare cohort.store --heads ridge nh2st --out report",
            "compare cohort.store --heads all --protocol strict --jobs 2",
            "compare cohort.store --heads nh2st:neighbours=both,anchor=ridge",
        ),
        f"What is trained is kept in {{out}}/cells. {AGAIN}",
    ),
    Verb(
        train,
        (
            "train cohort.store --head ridge --out run",
            "train cohort.store --head nh2st --views 20x 5x --out run",
        ),
        f"Nothing was written to {{out}}; a run that was there before is still there. {FROM_START}",
    ),
    Verb(
        predict,
        (
            "predict run cohort.store --out maps",
            "predict run other.store --out maps --slides C2 --genes FN1 CD74",
        ),
        f"Slides that are done are kept in {{out}}, and the slide in work up to its last block. {AGAIN}",
    ),
    Verb(protocols, ("protocols", "protocols hest-bench/a1")),
    Verb(
        import_,
        (
            "import trident_job --format trident --store S --mpp 0.5 --patients p.csv",
            "import features --format clam --store S --encoder uni --mpp 0.5",
        ),
        f"Files that are imported are kept in {{store}}. {AGAIN}",
    ),
    Verb(
        export,
        (
            "export cohort.store --format h5ad --out DIR",
            "export cohort.store --format trident --key stain-texture@20x --out DIR",
        ),
        "Files that are whole are kept in {out}. The same command writes the others",
    ),
    Verb(backbones, ("backbones", "backbones uni2-h")),
    Verb(doctor, ("doctor", "doctor --backbone uni2-h --patches 100000")),
)


class VerbGroup(TyperGroup):
    """The list of verbs with their whole first sentence; typer cuts it to one line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write name and first sentence of each verb."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _first_sentence(command.help or "")) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def add_verbs(app: typer.Typer) -> None:
    """Make each verb a command that ends with a sentence when it is stopped."""
    for verb in VERBS:
        app.command(verb.name, epilog=verb.epilog)(_stoppable(verb))


def _stoppable(verb: Verb) -> Callable[..., None]:
    @functools.wraps(verb.run)
    def run(**given: Any) -> None:
        try:
            verb.run(**given)
        except KeyboardInterrupt:  # also while a library is imported
            say(stopped_words(verb, given, sys.argv[1:]))
            exec("")  # Python forgets an interrupt that came while a library ran `exec`, and leaves with the code below
            raise typer.Exit(STOPPED) from None

    return run


def stopped_words(verb: Verb, given: Mapping[str, Any], words: list[str]) -> str:
    """What a stopped command keeps, and the line that goes on."""
    kept = verb.stopped.format(**given)
    if given.get("dry_run"):
        kept = NOTHING
    elif given.get("fresh"):  # whose cells are not kept
        kept = f"Nothing is kept of a comparison with --fresh. {FROM_START}"
    return f"stopped. {kept}: tissuary {shlex.join(words)}"


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].split()).split(". ")[0].rstrip(".")
