from typing import Any

import pytest

from gqlnotify.execution import is_request_error
from gqlnotify.transports.http import GRAPHQL_RESPONSE, JSON, negotiate


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        (",", JSON),
        (";q=1", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/html", JSON),
        (JSON, JSON),
        (GRAPHQL_RESPONSE, GRAPHQL_RESPONSE),
        (f"  {GRAPHQL_RESPONSE}  ;  charset=utf-8 ; q=0.3 ", GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE};Q=0.3, {JSON};Q=0.4", JSON),
        (f"{GRAPHQL_RESPONSE};q=0", JSON),
        (f"{GRAPHQL_RESPONSE};q=", JSON),
        (f"{GRAPHQL_RESPONSE};q=nan", JSON),
        (f"{GRAPHQL_RESPONSE};q=-1", JSON),
        (f"{GRAPHQL_RESPONSE}, */*", GRAPHQL_RESPONSE),
        (f"{GRAPHQL_RESPONSE};q=0.2, */*;q=0.9", JSON),
        (f"{GRAPHQL_RESPONSE};q=0.2, application/*;q=0.9", JSON),
        (f"{GRAPHQL_RESPONSE};q=0.2, {JSON};q=0.1, */*;q=0.9", GRAPHQL_RESPONSE),
    ],
)
def test_the_media_type_is_the_one_that_the_client_likes_best(
    accept: str | None, expected: str
) -> None:
    assert negotiate(accept) == expected


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"data": {"a": 1}}, False),
        ({"data": None}, False),
        ({"data": None, "errors": []}, False),
        ({"data": None, "errors": [{"message": "syntax"}]}, True),
        ({"errors": [{"message": "syntax"}]}, True),
        ({"data": None, "errors": [{"message": "of a field", "path": ["a"]}]}, False),
        ({"data": {"a": None}, "errors": [{"message": "of a field", "path": ["a"]}]}, False),
    ],
)
def test_a_request_error_has_neither_data_nor_a_path(
    result: dict[str, Any], expected: bool
) -> None:
    assert is_request_error(result) is expected
