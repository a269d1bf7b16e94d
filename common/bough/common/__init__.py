"""What all services share: configuration, errors, domain types, gRPC plumbing, telemetry."""
