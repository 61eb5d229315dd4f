"""Features to expression: heads, training, honest evaluation."""
