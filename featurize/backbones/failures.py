"""What architectures raise on options or inputs that they were not made for, and how to say it."""

from ...store.errors import plain_text

FAILURES = (
    TypeError, ValueError, RuntimeError, AssertionError, LookupError, ArithmeticError, AttributeError, OSError,
    ImportError, MemoryError,
)  # fmt: skip
"""Seen from timm, transformers and torch."""


def said(error: BaseException) -> str:
    """Kind and text of an error from elsewhere; many have no text, or only the bare key that was not found."""
    text = plain_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
