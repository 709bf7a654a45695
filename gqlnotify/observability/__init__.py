"""What Prometheus, the log and OpenTelemetry are told."""
