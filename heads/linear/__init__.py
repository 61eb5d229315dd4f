"""Heads with a closed form: ridge, HEST's probe, the level of a slide."""
