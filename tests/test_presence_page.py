"""The code of docs/presence.md works as it is printed."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import strawberry
from fastapi import FastAPI

from gqlnotify import GraphQLRouter, Settings, TopicManager
from gqlnotify.testing import connect

PAGE = (Path(__file__).parents[1] / "docs" / "presence.md").read_text()


@strawberry.type
class Message:
    text: str


@strawberry.type
class Query:
    ok: bool = True


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything that the page defines, in a module."""
    module: Any = ModuleType("presence_page")
    monkeypatch.setitem(sys.modules, "presence_page", module)
    settings = Settings(broker_url="memory://", presence_grace=0.05)
    module.Message, module.topics = Message, TopicManager(settings=settings)
    *blocks, plain = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert plain.startswith("topic_router(")
    exec("\n".join(blocks), vars(module))
    return module


async def test_a_client_follows_who_is_there(page: Any) -> None:
    schema = strawberry.Schema(Query, page.Mutation, page.Subscription)
    app = FastAPI()
    app.include_router(GraphQLRouter(schema, topics=page.topics), prefix="/graphql")
    found = re.search(r"query: `(.*?)`", PAGE, re.DOTALL)
    assert found is not None
    async with connect(app) as ann, connect(app) as bob:
        people = ann.subscribe(found[1])
        assert (await anext(people)).data["people"]["count"] == 0
        messages = await bob.subscribe('subscription { messages(room: "red") { text } }')
        joined = (await anext(people)).data["people"]
        await bob.execute('mutation { setTyping(room: "red", typing: true) }')
        changed = (await anext(people)).data["people"]
        await messages.stop()
        left = (await anext(people)).data["people"]

    kinds = [each["__typename"] for each in (joined, changed, left)]
    assert kinds == ["SomebodyJoined", "SomebodyChanged", "SomebodyLeft"]
    assert changed["person"] == {"name": joined["person"]["name"], "state": {"typing": True}}
