"""Inputs that no honest client sends: to the protocol core, to sockets, and over HTTP."""
