"""Which genes are predicted: rules, published lists, variable genes."""
