"""Topics: publish events, subscribe to them, and resume after a cursor."""
