"""Compute kernels behind small interfaces, each with a plain torch reference."""
