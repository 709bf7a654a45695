"""Older versions of Strawberry get the checks of newer ones."""

from inspect import signature
from typing import Any

import pytest

from gqlnotify.http import view
from gqlnotify.http.view import WithOrigins
from tests.applications import schema_of


def router(*allowed: str) -> Any:
    return WithOrigins(schema_of(), allowed_origins=allowed)


@pytest.mark.parametrize(
    ("allowed", "origin", "enters"),
    [
        ((), "https://there.example", False),
        (("https://There.example:443/",), "https://there.example", True),
        (("https://there.example",), "http://there.example", False),
        (("https://there.example",), "https://sub.there.example", False),
        (("https://there.example",), "null", False),
        (("*",), "https://there.example", True),
        (("*",), "null", True),
    ],
)
def test_only_pages_that_are_named_may_open_a_socket(
    allowed: tuple[str, ...], origin: str, enters: bool
) -> None:
    assert router(*allowed).is_websocket_origin_allowed(None, origin) == enters


@pytest.mark.parametrize("origin", ["there.example", "https://", "null", "https://a.example/b"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        router(origin)


def test_the_option_is_in_the_signature_of_the_constructor() -> None:
    def constructor(self: Any, schema: Any, *, prefix: str = "", **rest: Any) -> None: ...

    signed = view._with_option(signature(constructor))

    assert list(signed.parameters) == ["self", "schema", "prefix", "allowed_origins", "rest"]
