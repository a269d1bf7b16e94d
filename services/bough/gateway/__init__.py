"""The edge: OpenAI-compatible REST and the public gRPC API."""
