"""Pixels to features: cohorts, slides and their scale, views, backbones, the pipeline."""
