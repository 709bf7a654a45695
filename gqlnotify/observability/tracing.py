"""Spans for OpenTelemetry, or nothing if its API is not installed.

A span contains no document, no value and no error message: any of them may contain a secret.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from typing import Any

try:
    from opentelemetry import context, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("gqlnotify")

_NOTHING = nullcontext()


def span(
    name: str, attributes: Callable[[], Mapping[str, str]] | None = None
) -> AbstractContextManager[None]:
    """Return a context manager that makes a span of its block.

    `attributes` is called only if the span is recorded. Do not `yield` inside of the block: the
    caller may continue in another context, and the span would be detached in the wrong one.
    """
    return _NOTHING if _tracer is None else _spanning(name, attributes)


@contextmanager
def _spanning(name: str, attributes: Callable[[], Mapping[str, str]] | None) -> Iterator[None]:
    span = _start(name, attributes)
    if span is None:
        yield
        return
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        context.detach(token)
        span.end()


def begin(name: str, attributes: Callable[[], Mapping[str, str]] | None = None) -> Any:
    """Begin a span for the rest of the current context, and return it. Pass it to `end`."""
    span = None if _tracer is None else _start(name, attributes)
    if span is not None:
        context.attach(trace.set_span_in_context(span))
    return span


def end(span: Any) -> None:
    """End a span that `begin` returned."""
    if span is not None:
        span.end()


def _start(name: str, attributes: Callable[[], Mapping[str, str]] | None) -> Any:
    """Return a new span, or None if tracing is not configured."""
    assert _tracer is not None
    span = _tracer.start_span(name)
    if attributes is not None and span.is_recording():
        span.set_attributes(attributes())
    # A span that is not sampled has a valid context too: it tells nested spans not to be sampled.
    return span if span.get_span_context().is_valid else None


def operation(query: str | None, name: str | None, type_: str | None = None) -> Mapping[str, str]:
    """Return the attributes of an operation's span. They contain only the document's hash."""
    known = {"graphql.operation.name": name, "graphql.operation.type": type_}
    attributes = {key: value for key, value in known.items() if value is not None}
    if query is not None:
        digest = sha256(query.encode("utf-8", "replace")).hexdigest()
        attributes["graphql.document.hash"] = f"sha256:{digest}"
    return attributes
