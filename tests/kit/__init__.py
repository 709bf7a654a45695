"""An application with a test suite of its own, as a user of the library writes it."""
