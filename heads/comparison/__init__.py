"""Heads compared under a protocol: plan, folds, results."""
