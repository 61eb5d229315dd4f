"""A synthetic cohort whose answer is known."""

from .cohort import CohortSpec, write_cohort, write_spec

__all__ = ["CohortSpec", "write_cohort", "write_spec"]
