"""Conformance: Autobahn's cases against our WebSocket class, and `resume/` against docs/spec.md."""
