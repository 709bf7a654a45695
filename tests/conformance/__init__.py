"""WebSocket conformance: Autobahn's cases against our protocol class and uvicorn's."""
