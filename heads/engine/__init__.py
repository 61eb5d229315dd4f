"""The training loop that all neural heads share."""
