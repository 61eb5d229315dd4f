"""Where tissue lies on a slide, and the grid of tiles over it."""
