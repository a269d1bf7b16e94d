"""Weights, KV pages, radix tree and the step loop."""
