"""What the file system refuses, told as an error of the cohort."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...store.errors import CohortError, TissuaryError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Run what looks at or reads `path`; an `OSError` becomes a `CohortError`.

    Even asking whether a file exists raises where its name is too long or a folder above it may not be entered.

    Raises
    ------
    CohortError
        Naming what could not be read, and why.
    """
    try:
        yield
    except TissuaryError:
        raise
    except OSError as error:
        where = error.filename or path  # of a folder, the file in it that was the cause
        msg = f"{where} cannot be read ({error.strerror or error}): correct the path, or the permission to read it"
        raise CohortError(msg) from error
