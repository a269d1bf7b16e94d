"""Operations for NVIDIA GPUs: one family of Triton kernels a file, each with a checked launcher."""
