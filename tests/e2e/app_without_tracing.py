"""The same application where OpenTelemetry's API was not there when gqlnotify looked for it."""

import sys
from typing import Any

nothing: Any = None
sys.modules["opentelemetry"] = nothing
from gqlnotify.observability import tracing  # noqa: E402

# FastAPI can't do without.
del sys.modules["opentelemetry"]
from tests.e2e.app import app  # noqa: E402

assert tracing._tracer is None

__all__ = ["app"]
