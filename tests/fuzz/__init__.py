"""Inputs that no honest client sends: to the protocol core, to whole sockets, and over HTTP."""
