"""Values as JSON and back: what would read back as something else is refused."""
