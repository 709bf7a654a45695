"""WebSocket conformance: Autobahn's cases against our protocol class and against uvicorn's own."""
