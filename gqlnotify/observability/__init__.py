"""Metrics for Prometheus, logs, and spans for OpenTelemetry."""
