"""The command `tissuary`: one verb a file, nothing heavy imported before a verb runs."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from ..store.errors import TissuaryError
from .lists import expand_lists
from .output import fail, result
from .verbs import VerbGroup, add_verbs

# Rich markup in the help text would cost 0.25 s of every start.
app = typer.Typer(
    cls=VerbGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Feature store for histology: embed every patch once, search, and train expression heads in seconds.",
)

add_verbs(app)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        result(f"tissuary {__version__}")
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
