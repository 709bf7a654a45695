"""The checks of a framework at import, and the fallbacks if it lacks something."""

import logging

import pytest

from gqlnotify.frameworks import missing, missing_parameters, require, warn_of_fallback


class Base:
    def __init__(self) -> None:
        self.inherited = 1


class Framework(Base):
    static = 1

    def method(self, *, option: bool) -> None:
        self.later = option


def test_methods_and_what_they_assign_are_there() -> None:
    assert missing(Framework, "method", "static", "later", "inherited") == ()


def test_all_that_is_not_there_is_named() -> None:
    assert missing(Framework, "method", "gone", "lost") == ("Framework.gone", "Framework.lost")
    assert missing_parameters(Framework.method, "option", "gone") == ("Framework.method(gone)",)


def test_a_version_without_what_is_required_is_refused_with_its_number() -> None:
    require("fastapi", ())

    with pytest.raises(ImportError, match=r"fastapi \d+\.\d+.*, which has no A\.b, C\.d\. Install"):
        require("fastapi", ("A.b", "C.d"))


def test_a_fallback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        warn_of_fallback(logging.getLogger("gqlnotify"), "fastapi", ("A.b",), "It is slow")

    [line] = caplog.messages
    assert line.startswith("It is slow: gqlnotify can't fully use fastapi ")
