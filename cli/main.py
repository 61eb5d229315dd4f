"""The command `tissuary`: one verb a file, nothing heavy imported before a verb runs."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from ..store.errors import TissuaryError
from .backbones import backbones
from .compare import compare
from .demo import demo
from .doctor import doctor
from .export import export
from .featurize import featurize
from .import_ import import_
from .index import index
from .lists import expand_lists
from .output import fail, result
from .predict import predict
from .protocols import protocols
from .search import search
from .status import status
from .train import train
from .verify import verify

# Rich markup in the help text would cost 0.25 s of every start.
app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Feature store for histology: embed every patch once, search, and train expression heads in seconds.",
)

VERBS = (
    demo,
    featurize,
    status,
    verify,
    index,
    search,
    compare,
    train,
    predict,
    protocols,
    import_,
    export,
    backbones,
    doctor,
)

for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)  # `import` is a word of Python's own


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        result(f"tissuary {version('tissuary')}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options of every verb."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s"
    )


def main() -> None:
    """Run a verb; bad usage or input ends with exit code 2 and one clear message."""
    # OpenMP threads that wait by spinning take the cores that readers need: four times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=expand_lists(sys.argv[1:]), prog_name="tissuary")
    except TissuaryError as error:
        fail(error)
    except (OSError, MemoryError) as error:  # a disk, a folder or the memory gave out where nobody foresaw it
        logging.getLogger(__name__).info("", exc_info=True)
        fail(error)
