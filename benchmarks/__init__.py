"""One question a file, each answered as a ratio to a ceiling measured in the same run."""
