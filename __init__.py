"""tissuary: a foundation-model feature store for histology with lightweight heads."""
