"""An application with its own test suite, as users of the library write them."""
