"""Whole slides: one protocol, one reader a file format, and what each says of its um/px."""
