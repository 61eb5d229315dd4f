"""A trained head at work: a run on disk, and expression maps of slides that were never sequenced."""
