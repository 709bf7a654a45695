"""Spans for OpenTelemetry where its API is installed, and nothing where it is not.

A span holds neither documents nor values nor messages of errors: any of them may be someone's
secret.
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
    """Return what makes a span of everything inside; `attributes` are asked for if it is recorded.

    Don't leave it open over a `yield`: the caller may go on in another context.
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
    """Begin a span in the current context, which holds nothing else; `end` what is returned."""
    span = None if _tracer is None else _start(name, attributes)
    if span is not None:
        context.attach(trace.set_span_in_context(span))
    return span


def end(span: Any) -> None:
    """End what `begin` returned."""
    if span is not None:
        span.end()


def _start(name: str, attributes: Callable[[], Mapping[str, str]] | None) -> Any:
    """Return the span; None if tracing is not configured."""
    assert _tracer is not None
    span = _tracer.start_span(name)
    if attributes is not None and span.is_recording():
        span.set_attributes(attributes())
    # A span that is not sampled has a context too, which tells that what is inside is not either.
    return span if span.get_span_context().is_valid else None


def operation(query: str | None, name: str | None, type_: str | None = None) -> Mapping[str, str]:
    """Return the attributes of an operation; its document is known by its hash alone."""
    known = {"graphql.operation.name": name, "graphql.operation.type": type_}
    attributes = {key: value for key, value in known.items() if value is not None}
    if query is not None:
        digest = sha256(query.encode("utf-8", "replace")).hexdigest()
        attributes["graphql.document.hash"] = f"sha256:{digest}"
    return attributes
