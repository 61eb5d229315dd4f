"""Scores of predictions, their averages and intervals."""
