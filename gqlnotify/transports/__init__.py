"""Thin ASGI adapters between a socket and the protocol core."""
