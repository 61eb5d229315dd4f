"""Where cohorts come from: one file a source."""
