"""Views in um, and the stream of patches that reads every native tile once."""
