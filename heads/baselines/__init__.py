"""Heads without a network of the field, and the controls."""
