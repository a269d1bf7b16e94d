"""Generator of the demo model's training text: templates and combinatorics, no outside text or data."""
