"""A trained head to disk and back, bit for bit."""
