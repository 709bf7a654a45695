"""A stream of results over HTTP, which counts as a connection for as long as it lasts."""

from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gqlnotify import metrics
from gqlnotify.errors import (
    NotifyError,
    TooManyConnections,
    TooManyConnectionsOfSubject,
    TooManyStreams,
    TooManyStreamsOfSubject,
)
from gqlnotify.transports.admission import Admission

_REFUSALS: dict[type[Exception], type[NotifyError]] = {
    TooManyConnections: TooManyStreams,
    TooManyConnectionsOfSubject: TooManyStreamsOfSubject,
}
_RETRY_AFTER = 5


class Stream(StreamingResponse):
    """Sends `content` once `admission` lets it in, and the answer of `refuse` otherwise.

    That is decided when the server begins to send: a response that was made and never sent would
    be counted for good.

    Args:
        content: what to send. Nothing of it is executed for a stream that is refused.
        subject: whose stream it is; None where no token is asked for.
        refuse: makes the answer to a stream that is refused.
    """

    def __init__(
        self,
        content: AsyncIterator[str],
        *,
        status_code: int,
        headers: Mapping[str, str],
        admission: Admission,
        subject: str | None,
        refuse: Callable[[NotifyError], Response],
    ) -> None:
        super().__init__(content, status_code, headers)
        self._admission = admission
        self._subject = subject
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, and return when it has ended or the peer has gone."""
        try:
            leave = self._admission.enter_stream(self._subject)
        except (TooManyConnections, TooManyConnectionsOfSubject) as full:
            refusal = _REFUSALS[type(full)](full.reason, retryAfter=_RETRY_AFTER)
            await self._refuse(refusal)(scope, receive, send)
            return
        metrics.watch(self)
        try:
            await super().__call__(scope, receive, send)
        finally:
            metrics.unwatch(self)
            leave()

    def load(self) -> metrics.Load:
        """See `metrics.Living`."""
        yield metrics.streams, 1
