"""An application with plain WebSockets, configured by its environment."""

from fastapi import FastAPI

from gqlnotify import Settings, TopicManager, topic_router

settings = Settings()
topics = TopicManager(settings=settings)
app = FastAPI()
app.include_router(topic_router(topics, settings=settings), prefix="/ws")
