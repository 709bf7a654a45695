"""What of graphql-core and Strawberry the executions rely on."""

import asyncio
from typing import Any

import strawberry
from graphql import parse

from gqlnotify.execution.strawberry_adapter import Executor, execute_event
from tests.waiting import wait_until


async def test_a_resolver_that_outlives_a_failed_event_executes_the_fields_below_it() -> None:
    executed = list[str]()

    @strawberry.type
    class Inner:
        @strawberry.field
        def value(self) -> int:
            executed.append("value")
            return 1

    @strawberry.type
    class Note:
        @strawberry.field
        async def slow(self) -> Inner:
            await asyncio.sleep(0)
            return Inner()

        @strawberry.field
        def broken(self) -> int:
            raise ValueError("broken")

    @strawberry.type
    class Query:
        hello: str = "world"

    @strawberry.type
    class Subscription:
        @strawberry.subscription
        async def note(self) -> Note:  # type: ignore[misc]
            yield Note()

    schema = strawberry.Schema(Query, subscription=Subscription)
    document = parse("subscription { note { slow { value } broken } }")
    executor: Any = Executor.build(schema._schema, document)
    result = execute_event(executor, Note(), None, schema, None)

    assert [error.message for error in result.errors] == ["broken"]
    await wait_until(lambda: executed == ["value"])
