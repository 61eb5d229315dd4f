"""Records of the field's models, one file a loader."""
