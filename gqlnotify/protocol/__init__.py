"""The subprotocol `graphql-transport-ws` without I/O: messages in, commands out.

Quotations without a source are from its specification, PROTOCOL.md of the npm package graphql-ws.
"""
