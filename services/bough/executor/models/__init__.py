"""Model architectures: one short file each, over the shared layers."""
