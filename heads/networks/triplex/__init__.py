"""TRIPLEX: spot, neighbours and slide, fused."""
