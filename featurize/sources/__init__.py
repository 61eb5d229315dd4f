"""Where cohorts come from: one file a source, each a function from a path to samples and what had to be refused."""
