"""Parses and checks the messages of a client, and builds those of a server."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gqlnotify.errors import InvalidMessage

# Every event repeats the id. Clients use UUIDs or numbers.
MAX_ID_CHARACTERS = 256

Json = Mapping[str, Any]
Decode = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class ConnectionInit:
    """The client asks the server to open the connection."""

    payload: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ping:
    """The client wants a pong with this payload."""

    payload: Json | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The client is alive."""

    payload: Json | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client starts an operation of any kind, with an id that it chooses.

    The document is either `query`, or a persisted one with the name `document_id`.
    """

    id: str
    query: str | None
    operation_name: str | None = None
    variables: Json | None = None
    extensions: Json | None = None
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Complete:
    """The client ends an operation."""

    id: str


Message = ConnectionInit | Ping | Pong | Subscribe | Complete


def strict_json(text: str | bytes) -> object:
    """Parse JSON as RFC 8259 defines it, without NaN and Infinity, which Python accepts.

    A number like 1e999 is refused: Python reads it as Infinity, which JSON can't send back.

    Raises:
        ValueError: `text` is not JSON, is nested too deeply, or contains a number that is too
            large.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _STRICT.decode(text)
    except RecursionError:
        raise ValueError("The JSON is nested too deeply") from None


def parse(text: str, decode: Decode = strict_json) -> Message:
    """Parse one text message.

    Raises:
        InvalidMessage: "Receiving a message of a type or format which is not specified in this
            document will result in an immediate socket closure with the event 4400".
    """
    try:
        message = decode(text)
    except (ValueError, RecursionError):
        # RecursionError: the application may replace `decode`, and json raises it for deep nesting.
        raise InvalidMessage("Message is not valid JSON") from None
    if not isinstance(message, dict):
        raise InvalidMessage("Message must be a JSON object")
    type_ = message.get("type")
    if not isinstance(type_, str) or type_ not in _READERS:
        raise InvalidMessage(_unknown_type(type_))
    return _READERS[type_](message)


def find_document_id(parameters: Json) -> str | None:
    """Return the name of the persisted document that a request without `query` asks for, or None.

    It is `documentId` (GraphQL over HTTP, appendix on persisted documents),
    `extensions.persistedQuery.sha256Hash` (Apollo's clients) or `id` (Relay).
    """
    names = (parameters.get("documentId"), _apollo_hash(parameters), parameters.get("id"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _apollo_hash(parameters: Json) -> object:
    extensions = parameters.get("extensions")
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    return persisted.get("sha256Hash") if isinstance(persisted, dict) else None


def _read_init(message: Json) -> ConnectionInit:
    return ConnectionInit(_optional_object(message, "payload") or {})


def _read_ping(message: Json) -> Ping:
    return Ping(_optional_object(message, "payload"))


def _read_pong(message: Json) -> Pong:
    return Pong(_optional_object(message, "payload"))


def _read_subscribe(message: Json) -> Subscribe:
    id_ = _id(message)
    payload = message.get("payload")
    if not isinstance(payload, dict):
        raise InvalidMessage("'payload' of subscribe must be an object")
    query = payload.get("query")
    document_id = None if query else find_document_id(payload)
    if not isinstance(query, str) and (query is not None or document_id is None):
        raise InvalidMessage("'query' must be a string")
    operation_name = payload.get("operationName")
    if operation_name is not None and not isinstance(operation_name, str):
        raise InvalidMessage("'operationName' must be a string or null")
    return Subscribe(
        id=id_,
        query=query,
        operation_name=operation_name,
        variables=_optional_object(payload, "variables"),
        extensions=_optional_object(payload, "extensions"),
        document_id=document_id,
    )


def _read_complete(message: Json) -> Complete:
    return Complete(_id(message))


_READERS: Mapping[str, Callable[[Json], Message]] = {
    "connection_init": _read_init,
    "ping": _read_ping,
    "pong": _read_pong,
    "subscribe": _read_subscribe,
    "complete": _read_complete,
}


def _id(message: Json) -> str:
    id_ = message.get("id")
    if not isinstance(id_, str) or not id_:
        raise InvalidMessage("'id' must be a non-empty string")
    if len(id_) > MAX_ID_CHARACTERS:
        raise InvalidMessage(f"'id' must have at most {MAX_ID_CHARACTERS} characters")
    return id_


def _optional_object(container: Json, name: str) -> Json | None:
    value = container.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidMessage(f"'{name}' must be an object or null")
    return value


def _unknown_type(type_: object) -> str:
    if not isinstance(type_, str):
        return "'type' must be a string"
    return f"Unknown message type {type_!r}" if len(type_) <= 40 else "Unknown message type"


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("A number is too large")
    return number


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# Made once: `json.loads` makes one for each call with such options, which takes most of its time.
_STRICT = json.JSONDecoder(parse_constant=_not_json, parse_float=_finite)


def connection_ack(payload: Json | None = None) -> Json:
    """Return the answer to an accepted `connection_init`."""
    return _with_payload("connection_ack", payload)


def ping(payload: Json | None = None) -> Json:
    """Return a ping, which the client must answer."""
    return _with_payload("ping", payload)


def pong(payload: Json | None = None) -> Json:
    """Return the answer to a ping."""
    return _with_payload("pong", payload)


def next_(id_: str, result: Json) -> Json:
    """Return one execution result of the operation."""
    return {"id": id_, "type": "next", "payload": result}


def error(id_: str, errors: Sequence[Json]) -> Json:
    """Return the message with the errors that end the operation."""
    return {"id": id_, "type": "error", "payload": errors}


def complete(id_: str) -> Json:
    """Return the message that ends the operation."""
    return {"id": id_, "type": "complete"}


def _with_payload(type_: str, payload: Json | None) -> Json:
    return {"type": type_} if payload is None else {"type": type_, "payload": payload}
