"""Token ids to text, incrementally; finds stop strings."""
