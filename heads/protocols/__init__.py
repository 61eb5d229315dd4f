"""The ground of every comparison: protocols, splits, targets."""
