"""The errors a user can cause, each also the built-in error that a caller would already catch.

Every message names what came, what was wanted, and how to mend it.
"""


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
