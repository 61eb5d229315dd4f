"""Protocols, metrics, comparison and the report."""
