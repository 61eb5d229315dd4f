"""One published method a file; a method of several files has a folder."""
