"""MMAP: neighbours, look-alikes, prototypes."""
