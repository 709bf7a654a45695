"""Topics over a plain WebSocket, for clients without GraphQL."""
