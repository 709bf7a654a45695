"""`graphql-transport-ws` over a WebSocket."""
