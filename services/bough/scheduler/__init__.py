"""The truth about each request: queue, policy, tokens produced so far."""
