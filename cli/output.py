"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

OK, SOME_FAILED, BAD_INPUT = 0, 1, 2

WIDE = 200
"""Columns of a table that goes into a file or a pipe."""

STOPPED = 130
"""By Ctrl-C, as shells count it."""

OPTIONS = {
    "patches": "--patches", "key": "--key", "backbone": "--backbone", "views": "--views", "slides": "--slides",
    "slide_id": "--slide", "genes": "--genes", "standardise": "--standardise", "centring": "--centring",
    "spot_weight": "--spot-weight", "panel": "--panel", "protocols": "--protocol", "heads": "--heads",
}  # fmt: skip
"""Argument that a message of the library names -> the same on the command line."""

_ARGUMENT = re.compile(rf"`(?P<name>{'|'.join(OPTIONS)})=(?P<value>[^`]*)`")

FIRST_LINE_S, LINE_S = 1.0, 30.0
"""When a log gets its first line of progress, and the others after it."""

BARS = 8
"""Finished bars that stay on the screen."""


def console() -> Console:
    """The console for people: tables and sentences on stdout, in a file or a pipe on lines wide enough for names."""
    from rich.console import Console

    screen = Console()
    if not screen.is_terminal:
        screen.width = WIDE
    return screen


def say(text: str) -> None:
    """One line for people, on stderr, so that stdout stays machine-readable under `--json`."""
    print(_ARGUMENT.sub(_as_option, text), file=sys.stderr)


def _as_option(argument: re.Match[str]) -> str:
    """A Python argument, such as `patches="spots"`, as the option that a command takes: `--patches spots`."""
    value = " ".join(re.findall(r"[^\s'\"(),]+", argument["value"]))
    return f"`{OPTIONS[argument['name']]} {value}`"


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
    """Progress on stderr from the first second, as a function of (label, done, total).

    In a terminal it is a bar with rate and time left; in a log a line after a second, and then one every half minute.
    """
    with (_bars if sys.stderr.isatty() else _lines)(what) as update:
        yield update


@contextmanager
def _lines(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress for a log. The lines come from a thread of their own, since one step may take minutes."""
    started, over = time.monotonic(), threading.Event()
    latest = ["starting"]

    def update(label: str, done: int, total: int) -> None:
        latest[0] = f"{label}, {done} of {total}"

    def speak() -> None:
        wait = FIRST_LINE_S
        while not over.wait(wait):
            say(f"{what}: {latest[0]} ({_duration(time.monotonic() - started)})")
            wait = LINE_S

    speaker = threading.Thread(target=speak, name="progress", daemon=True)
    speaker.start()
    try:
        yield update
    finally:
        over.set()
        speaker.join()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _bars(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars for a terminal, with rate, time gone and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second, or a minute."""

        def render(self, task: Task) -> Text:
            """Format the speed of one task."""
            speed = task.speed or 0.0
            return Text(f"{speed:.0f}/s" if speed >= 1 else f"{60 * speed:.0f}/min" if speed else "")

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate(),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        first = bar.add_task(f"{what} starting", total=None)  # moves until there is something to count
        tasks: dict[str, Any] = {}

        def update(label: str, done: int, total: int) -> None:
            # A bar per slide while featurizing, one bar with a changing label while comparing.
            name = label if what == "featurize" else what
            if name not in tasks:
                bar.update(first, visible=False)
                finished = {task.id for task in bar.tasks if task.finished}
                for over in [one for one, task in tasks.items() if task in finished][:-BARS]:
                    bar.remove_task(tasks.pop(over))  # or the bar of the slide in work would fall below the screen
                tasks[name] = bar.add_task(f"{what} {label}", total=total)
            bar.update(tasks[name], completed=done, total=total, description=f"{what} {label}")

        yield update
