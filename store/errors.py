"""The errors a user can cause, each also the built-in error that a caller would already catch.

Every message names what came, what was wanted, and how to mend it.
"""

from __future__ import annotations

import re

_PICKLED = re.compile(r"weights.only|allow_pickle|pickled|unpickl", re.IGNORECASE)
_GLOBAL = re.compile(r"GLOBAL (\S+)")


def plain_text(error: BaseException) -> str:
    """Text of another library's error, for a message of ours, without advice to switch a protection off.

    torch, numpy and transformers answer what would run code with the option that lets it run. Of such a text only the
    fact is kept, and the name of what would be called.
    """
    text = str(error).strip()
    if "trust_remote_code" in text:
        return "it needs code that lies beside its weights on the hub, and such code is not run"
    if _PICKLED.search(text):
        called = _GLOBAL.search(text)
        return "it holds pickled objects, which can run code" + (f": {called[1]}" if called else "")
    return text


def plain_reason(error: BaseException) -> str:
    """First line of `plain_text`; the kind of error where it has no text."""
    return next(iter(plain_text(error).splitlines()), type(error).__name__)


class TissuaryError(Exception):
    """Base of all errors that tissuary raises on purpose; the commands turn it into exit code 2."""


class InvalidNameError(TissuaryError, ValueError):
    """A name that cannot become part of a path, a view or a feature key."""


class StoreError(TissuaryError, ValueError):
    """A store, or one of its files, that is missing, foreign, damaged or at odds with another."""


class DamagedFileError(StoreError):
    """A file of a store whose bytes are not what was written: truncated, overwritten, incomplete."""


class FingerprintError(StoreError):
    """Features of different fingerprints that were about to be mixed."""


class CohortError(TissuaryError, ValueError):
    """A cohort, manifest, spot file or count matrix that cannot be used as it is."""


class ScaleError(TissuaryError, ValueError):
    """A slide whose um/px is missing, contradictory, or too coarse for the view that was asked for."""


class SlideError(TissuaryError, OSError):
    """An image that cannot be opened or read."""


class BackboneError(TissuaryError, ValueError):
    """A backbone record, architecture or weights file that cannot be used."""


class HeadError(TissuaryError, ValueError):
    """A head that lacks its input, or was asked for what it cannot do."""


class ProtocolError(TissuaryError, ValueError):
    """A protocol that does not exist or cannot be run on this cohort."""


class MissingDependencyError(TissuaryError, ImportError):
    """An optional library that this step needs and this machine lacks."""
