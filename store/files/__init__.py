"""One file a kind: what lies in a store, written atomically and read without a copy."""
