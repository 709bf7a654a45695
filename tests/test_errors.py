import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify import errors
from gqlnotify.errors import ConnectionClosed, NotifyError, close_reason

CODES: dict[type[NotifyError], tuple[str, int]] = {
    errors.NotifyError: ("INTERNAL_SERVER_ERROR", 400),
    errors.Unauthenticated: ("UNAUTHENTICATED", 401),
    errors.TokenExpired: ("UNAUTHENTICATED", 401),
    errors.TokenNotYetValid: ("TOKEN_NOT_YET_VALID", 401),
    errors.TokenRevoked: ("TOKEN_REVOKED", 401),
    errors.UnknownViewer: ("INTERNAL_SERVER_ERROR", 500),
    errors.TokenIssuedTooSoon: ("TOKEN_REVOKED", 401),
    errors.TokenLivesTooLong: ("TOKEN_LIVES_TOO_LONG", 401),
    errors.RevocationsUnavailable: ("REVOCATIONS_UNAVAILABLE", 503),
    errors.TooManyRevocations: ("TOO_MANY_REVOCATIONS", 503),
    errors.KeysUnavailable: ("KEYS_UNAVAILABLE", 503),
    errors.TooManyAttempts: ("TOO_MANY_ATTEMPTS", 429),
    errors.Forbidden: ("FORBIDDEN", 403),
    errors.BadUserInput: ("BAD_USER_INPUT", 400),
    errors.ExecutionCancelled: ("EXECUTION_CANCELLED", 500),
    errors.ExecutionTimeout: ("EXECUTION_TIMEOUT", 500),
    errors.CursorExpired: ("CURSOR_EXPIRED", 410),
    errors.TooManyOperations: ("TOO_MANY_OPERATIONS", 429),
    errors.TooManyStreams: ("TOO_MANY_CONNECTIONS", 503),
    errors.TooManyStreamsOfSubject: ("TOO_MANY_CONNECTIONS_OF_SUBJECT", 429),
    errors.NotReserved: ("NOT_RESERVED", 404),
    errors.StreamConflict: ("STREAM_CONFLICT", 409),
    errors.TooManyTopics: ("TOO_MANY_TOPICS", 429),
    errors.ExtensionsTooBig: ("EXTENSIONS_TOO_BIG", 413),
    errors.TooManyTokens: ("TOO_MANY_TOKENS", 400),
    errors.QueryTooDeep: ("QUERY_TOO_DEEP", 400),
    errors.TooManyAliases: ("TOO_MANY_ALIASES", 400),
    errors.QueryTooComplex: ("QUERY_TOO_COMPLEX", 400),
    errors.IntrospectionDisabled: ("INTROSPECTION_DISABLED", 400),
    errors.PersistedQueryNotFound: ("PERSISTED_QUERY_NOT_FOUND", 400),
    errors.OperationNotAllowed: ("OPERATION_NOT_ALLOWED", 403),
    errors.BodyTooBig: ("BODY_TOO_BIG", 413),
    errors.EventUnreadable: ("EVENT_UNREADABLE", 500),
    errors.InternalError: ("INTERNAL_SERVER_ERROR", 500),
    errors.NoViewer: ("NO_VIEWER", 500),
    errors.BrokerUnavailable: ("BROKER_UNAVAILABLE", 503),
    errors.TopicsClosed: ("TOPICS_CLOSED", 503),
}
CLOSE_CODES = {
    errors.InvalidMessage: 4400,
    errors.NotAcknowledged: 4401,
    errors.SubprotocolNotAcceptable: 4406,
    errors.OperationExists: 4409,
    errors.TooManyInits: 4429,
    errors.InitTimeout: 4408,
    errors.MessageTooBig: 1009,
    errors.PeerSilent: 1013,
    errors.TooSlow: 1013,
    errors.TooManyConnections: 1013,
    errors.TooManyConnectionsOfSubject: 1013,
    errors.TooManyMessages: 1008,
    errors.Disconnected: 1012,
    errors.Draining: 1012,
}


def _all_below(root: type[Exception]) -> set[type[Exception]]:
    return {root}.union(*(_all_below(below) for below in root.__subclasses__()))


def test_the_codes_that_clients_rely_on_stay_what_they_are() -> None:
    assert set(CODES) == {e for e in _all_below(NotifyError) if e.__module__ == errors.__name__}
    assert {e: (e.code, e.http_status) for e in CODES} == CODES


def test_the_close_codes_that_clients_rely_on_stay_what_they_are() -> None:
    assert set(CLOSE_CODES) == _all_below(ConnectionClosed) - {ConnectionClosed}
    assert {e: e("why").close_code for e in CLOSE_CODES} == CLOSE_CODES


def test_a_client_with_an_expired_token_may_retry_and_one_with_a_bad_token_gives_up() -> None:
    assert errors.TokenExpired.close_code == 4403
    assert errors.Unauthenticated.close_code == 4401


class OutOfStock(NotifyError):
    """An application's own error."""

    code = "OUT_OF_STOCK"
    http_status = 409


def test_an_error_carries_its_code_and_its_details_to_the_client() -> None:
    error = OutOfStock("None is left", left=0)

    assert error.message == "None is left"
    assert error.extensions == {"code": "OUT_OF_STOCK", "left": 0}
    assert error.formatted() == {
        "message": "None is left",
        "extensions": {"code": "OUT_OF_STOCK", "left": 0},
    }


def test_errors_do_not_share_their_details() -> None:
    OutOfStock("a", id="1")

    assert OutOfStock("b").extensions == {"code": "OUT_OF_STOCK"}


def test_a_close_code_may_be_given_by_hand() -> None:
    closed = ConnectionClosed("why", code=4500)

    assert (closed.close_code, closed.reason, str(closed)) == (4500, "why", "why")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        ("short", "short"),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("é" * 62, "é" * 61),
        ("x" * 121 + "\U0001f600", "x" * 121),
        ("\ud800", "?"),
    ],
)
def test_a_close_reason_is_cut_between_characters(text: str, reason: str) -> None:
    assert close_reason(text) == reason


@given(st.text(st.characters()) | st.text(st.characters(codec="utf-8"), min_size=40))
def test_a_close_reason_always_fits_its_frame(text: str) -> None:
    reason = close_reason(text)

    assert len(reason.encode()) <= errors.MAX_REASON_BYTES
    assert text.encode("utf-8", "replace").startswith(reason.encode())


def test_a_client_is_told_that_the_broker_is_unavailable_and_the_log_why() -> None:
    error = errors.BrokerUnavailable("Error 111 connecting to 10.0.0.7:6379")

    assert error.reason == "Error 111 connecting to 10.0.0.7:6379"
    assert "10.0.0.7" not in f"{error} {error.formatted()}"
