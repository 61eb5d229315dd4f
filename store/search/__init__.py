"""Neighbours in feature space: exact search, inverted lists, index files."""
