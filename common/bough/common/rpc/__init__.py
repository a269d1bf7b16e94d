"""gRPC plumbing that every service shares: servers, channels, errors, long-lived streams."""
