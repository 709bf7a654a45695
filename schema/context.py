"""The context of resolvers."""

from typing import TypeAlias

import strawberry
from strawberry.fastapi import BaseContext

from gqlnotify import TopicManager
from schema.chat.store import ChatStore
from schema.store import TaskStore


class Context(BaseContext):
    """The parts of the application that resolvers use."""

    def __init__(self, store: TaskStore, chat: ChatStore, topics: TopicManager) -> None:
        super().__init__()
        self.store = store
        self.chat = chat
        self.topics = topics


Info: TypeAlias = strawberry.Info[Context, None]
