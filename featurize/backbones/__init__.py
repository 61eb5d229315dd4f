"""Frozen encoders: records, the registry, the builder, and the embedded encoders."""
