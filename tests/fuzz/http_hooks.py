"""What schemathesis must know of the task service: its scalars, and what a valid answer is."""

import json
from typing import Any

import schemathesis
from graphql import StringValueNode
from hypothesis import strategies as st

CODES = {"BAD_USER_INPUT", "CONFLICT", "CURSOR_EXPIRED", "FORBIDDEN", "NOT_FOUND"}
REFUSED = {"UNAUTHENTICATED"}

_texts = st.text(max_size=30).map(lambda text: StringValueNode(value=text))
schemathesis.graphql.scalar("JSON", _texts)
schemathesis.graphql.scalar("DateTime", _texts)


@schemathesis.check
def answers_cleanly(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: "schemathesis.Case[Any]"
) -> None:
    """Every answer is JSON and no 5xx; each error has a code or a location."""
    assert response.status_code < 500, response.status_code
    answer = json.loads(response.content)
    for error in answer.get("errors", ()):
        code = error.get("extensions", {}).get("code")
        is_about_the_document = "path" not in error and response.status_code in {200, 400}
        assert code in CODES | REFUSED or is_about_the_document, error
