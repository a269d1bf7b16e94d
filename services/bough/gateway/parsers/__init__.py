"""What a model's text says beside its answer: its thoughts and its tool calls."""
