"""Chaos: real processes, real clients that resume, and faults that must not lose any event."""
