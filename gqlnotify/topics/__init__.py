"""Topics: publishing, following, resuming."""
