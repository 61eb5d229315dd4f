"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

OK, SOME_FAILED, BAD_INPUT = 0, 1, 2


def console() -> Console:
    """The console for people: tables and sentences on stdout."""
    from rich.console import Console

    return Console()


def say(text: str) -> None:
    """One line for people, on stderr, so that stdout stays machine-readable under `--json`."""
    print(text, file=sys.stderr)


def result(text: str) -> None:
    """One line of the result, on stdout."""
    print(text)


def print_json(value: Any) -> None:
    """The result as JSON on stdout; NaN becomes null, which JSON has."""
    print(json.dumps(_plain(value), indent=1, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def fail(error: Exception) -> NoReturn:
    """Say what is wrong and how to mend it, and leave with the exit code for bad input."""
    say(f"error: {error or type(error).__name__}")
    for note in getattr(error, "__notes__", ()):
        say(f"  {note}")
    sys.exit(BAD_INPUT)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr with rate and time left, as a function of (label, done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            """Format the speed of one task."""
            return Text(f"{task.speed:.0f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        tasks: dict[str, Any] = {}

        def update(label: str, done: int, total: int) -> None:
            # A bar per slide while featurizing, one bar with a changing label while comparing.
            name = label if what == "featurize" else what
            if name not in tasks:
                tasks[name] = bar.add_task(f"{what} {label}", total=total)
            bar.update(tasks[name], completed=done, total=total, description=f"{what} {label}")

        yield update
