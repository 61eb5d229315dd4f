"""A synthetic cohort whose answer is known."""
