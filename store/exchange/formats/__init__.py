"""One tool a file: how its features are found, read and written."""
