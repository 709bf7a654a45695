"""The application of `app.py`, with streams over HTTP."""

from fastapi import FastAPI
from strawberry.subscriptions import (
    GRAPHQL_SSE_PROTOCOL,
    GRAPHQL_TRANSPORT_WS_PROTOCOL,
    MULTIPART_SUBSCRIPTION_PROTOCOL,
)

from gqlnotify import GraphQLRouter
from tests.e2e.app import schema, topics

app = FastAPI()
graphql = GraphQLRouter(
    schema,
    topics=topics,
    subscription_protocols=(
        GRAPHQL_TRANSPORT_WS_PROTOCOL,
        GRAPHQL_SSE_PROTOCOL,
        MULTIPART_SUBSCRIPTION_PROTOCOL,
    ),
)
app.include_router(graphql, prefix="/graphql")
