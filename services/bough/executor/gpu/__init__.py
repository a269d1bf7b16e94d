"""The executor on a GPU: rows that live on the device, steps as CUDA graphs, results through a ring."""
