"""The same schema on every server; see benchmarks/RESULTS.md."""
