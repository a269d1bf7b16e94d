"""How steps run: launched in order, their results taken in the same order, on the host or on a GPU."""
