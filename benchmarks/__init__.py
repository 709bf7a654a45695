"""What it costs; see docs/operations.md."""
