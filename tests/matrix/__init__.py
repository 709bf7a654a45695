"""The table of clients: what real clients lose when connections are cut and servers stop."""
