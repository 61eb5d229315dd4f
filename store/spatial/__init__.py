"""Neighbours in tissue: nearest, rings, windows, nested grids."""
