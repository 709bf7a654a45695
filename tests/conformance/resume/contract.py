"""What the kit has to know about a server: how to subscribe there, and how to publish."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TASK_SERVICE = Path(__file__).parent / "task_service.json"
TRANSPORTS = ("websocket", "sse", "multipart", "single-connection")
_MEMBERS = {
    *("headers", "connection_init", "subscription", "publish", "transports"),
    *("resumes_without_cursor", "expires_after", "stop"),
}


class BadContract(Exception):
    """The contract can't be used. The text says why."""


@dataclass(frozen=True)
class Viewer:
    """How one subject tells the server who it is."""

    headers: Mapping[str, str]
    connection_init: Mapping[str, Any] | None


@dataclass(frozen=True)
class Contract:
    """A server under test.

    Attributes:
        urls: its GraphQL endpoint, with `http` or `https`. If there are several, they are processes
            of one server, and each connection goes to the next.
        viewer: the subject that subscribes and publishes.
        other: another subject with the same rights; None if there is none.
        subscription: `query` and `variables` of a subscription to one stream of events.
        publish: `query` and `variables` of a mutation that publishes one event to this stream. Or
            an HTTP request: `method`, `url`, `headers` and `json`. `url` may be relative.
        transports: those that the server has.
        resumes_without_cursor: whether it implements section 4 of the specification.
        expires_after: how many later events make a cursor expire; None if that takes too many.
        stop: a command that asks the server to stop; None if it must go on.
    """

    urls: Sequence[str]
    viewer: Viewer
    subscription: Mapping[str, Any]
    publish: Mapping[str, Any]
    other: Viewer | None = None
    transports: frozenset[str] = frozenset(TRANSPORTS)
    resumes_without_cursor: bool = True
    expires_after: int | None = None
    stop: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def has_topics(self) -> bool:
        """Whether each check can have a stream of events of its own."""
        return "{{topic}}" in json.dumps(self.subscription)


def read(
    path: Path, urls: Sequence[str], *, token: str = "", other_token: str = "", **more: Any
) -> Contract:
    """Read the contract in a JSON file. `more` are members that replace those of the file.

    Raises:
        BadContract: the file is not a contract.
    """
    try:
        found = {**json.loads(path.read_text()), **more}
    except (OSError, ValueError) as error:
        raise BadContract(f"{path}: {error}") from None
    unknown = found.keys() - _MEMBERS
    if unknown:
        raise BadContract(f"{path}: unknown members: {', '.join(sorted(unknown))}")
    missing = {"subscription", "publish"} - found.keys()
    if missing:
        raise BadContract(f"{path}: missing members: {', '.join(sorted(missing))}")
    transports = frozenset(found.get("transports", TRANSPORTS))
    if not transports <= set(TRANSPORTS):
        raise BadContract(f"{path}: the transports are {', '.join(TRANSPORTS)}")
    stop = found.get("stop")
    return Contract(
        urls=tuple(urls),
        viewer=_viewer(found, token),
        other=_viewer(found, other_token) if other_token else None,
        subscription=found["subscription"],
        publish=found["publish"],
        transports=transports,
        resumes_without_cursor=found.get("resumes_without_cursor", True),
        expires_after=found.get("expires_after"),
        stop=None if stop is None else tuple(stop),
    )


def filled(template: Any, **values: str) -> Any:
    """Return `template` with each `{{name}}` in its texts replaced."""
    match template:
        case str():
            for name, value in values.items():
                template = template.replace(f"{{{{{name}}}}}", value)
            return template
        case Mapping():
            return {key: filled(value, **values) for key, value in template.items()}
        case list():
            return [filled(value, **values) for value in template]
    return template


def _viewer(found: Mapping[str, Any], token: str) -> Viewer:
    headers = filled(found.get("headers", {}), token=token)
    return Viewer(headers, filled(found.get("connection_init"), token=token))
