"""The test kit, tested as its users use it."""
