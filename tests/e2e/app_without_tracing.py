"""The same application, without OpenTelemetry's API when gqlnotify is imported."""

import sys
from typing import Any

nothing: Any = None
sys.modules["opentelemetry"] = nothing
from gqlnotify.observability import tracing  # noqa: E402

# FastAPI needs it.
del sys.modules["opentelemetry"]
from tests.e2e.app import app  # noqa: E402

assert tracing._tracer is None

__all__ = ["app"]
