"""Training of the demo model: tokenizer, packing, the loop, export and evaluation (needs torch and transformers)."""
