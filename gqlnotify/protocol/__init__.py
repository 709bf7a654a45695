"""The subprotocol `graphql-transport-ws` without I/O: messages in, commands out.

The text of the protocol is PROTOCOL.md of the npm package graphql-ws; it is quoted where it rules.
"""
