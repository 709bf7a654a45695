"""The REST twin of the GraphQL schema, for clients without GraphQL."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import Field
from typing_extensions import override

from gqlnotify import errors
from schema import commands
from schema.chat import commands as chat
from schema.chat.types import Message, PrivateMessage, PrivateMessages
from schema.checks import MAX_PAGE
from schema.context import Context
from schema.types import Notification, Task, TaskStatus

Admit = Callable[[Request], Awaitable[object]]
"""Checks the token of a request, whose route then runs as the token's subject."""

logger = logging.getLogger("schema.rest")


@dataclass
class NewTask:
    """The fields of a new task."""

    title: str
    description: str = ""
    assignee: str | None = None


@dataclass
class TaskPage:
    """Tasks in the order of their creation."""

    tasks: list[Task]
    next: Annotated[
        str | None,
        Field(description="Pass it as after to get the next page; null on the last page."),
    ]
    event_cursor: Annotated[
        str,
        Field(
            description="Pass it as after to /ws/notifications/tasks, to get all changes since "
            "this list."
        ),
    ]


@dataclass
class NewMessage:
    """A message to a room."""

    room: str
    text: str


@dataclass
class NewPrivateMessage:
    """A message to a subject."""

    to: str
    text: str


@dataclass
class RoomPage:
    """The newest messages of a room, oldest first."""

    messages: Sequence[Message]
    event_cursor: Annotated[
        str,
        Field(
            description="Pass it as after to /ws/notifications/rooms.<room>, to get all messages "
            "since these."
        ),
    ]


EventId = Annotated[str | None, Query(description="Sending again with the same one has no effect.")]
Last = Annotated[int, Query(description=f"0 to {MAX_PAGE} messages.")]
Before = Annotated[str | None, Query(description="The id of a message: those before it.")]


def rest(
    context: Callable[[], Awaitable[Context]], admit: Admit, *, body_max_bytes: int
) -> APIRouter:
    """Return the routes for tasks, notifications and messages.

    Args:
        context: makes the context of a request.
        admit: checks the token.
        body_max_bytes: the size of the body of a request.
    """
    router = APIRouter(
        route_class=_route_class(admit, body_max_bytes),
        # Only for the page of OpenAPI: `admit` checks the token.
        dependencies=[Depends(HTTPBearer(auto_error=False))],
    )

    @router.post("/tasks", status_code=201)
    async def create_task(task: NewTask) -> Task:
        """Create a task. Requires the right to publish to `tasks`."""
        return await commands.create_task(
            await context(),
            title=task.title,
            description=task.description,
            assignee=task.assignee,
        )

    @router.get("/tasks")
    async def list_tasks(
        first: Annotated[int, Query(description=f"0 to {MAX_PAGE} tasks.")] = 50,
        after: Annotated[str | None, Query(description="`next` of an earlier page.")] = None,
        status: TaskStatus | None = None,
        assignee: str | None = None,
    ) -> TaskPage:
        """Tasks in the order of their creation."""
        found = await commands.list_tasks(
            await context(), first=first, after=after, status=status, assignee=assignee
        )
        page = found.page_info
        return TaskPage(
            tasks=[edge.node for edge in found.edges],
            next=page.end_cursor if page.has_next_page else None,
            event_cursor=found.event_cursor,
        )

    @router.post("/publish/{topic}")
    async def publish(
        topic: Annotated[
            str, Path(description="Any topic that does not begin with tasks, rooms or inbox.")
        ],
        payload: Annotated[Any, Body(description="JSON with at most 64 KiB and 100 levels.")],
        event_id: EventId = None,
    ) -> Notification:
        """Publish a notification. Requires the right to publish to the topic."""
        return await commands.publish_notice(await context(), topic, payload, event_id=event_id)

    @router.post("/messages", status_code=201)
    async def say(message: NewMessage, event_id: EventId = None) -> Message:
        """Send a message to a room. Requires the right to publish to `rooms.<room>`."""
        return await chat.say(await context(), message.room, message.text, event_id=event_id)

    @router.get("/messages")
    async def room_messages(room: str, last: Last = 50, before: Before = None) -> RoomPage:
        """Messages of a room. Requires the right to subscribe to `rooms.<room>`."""
        parts = await context()
        cursor = await chat.enter(parts, room)
        found = await chat.messages(parts, room, last=last, before=before)
        return RoomPage(messages=found, event_cursor=cursor)

    @router.post("/private-messages", status_code=201)
    async def whisper(message: NewPrivateMessage, event_id: EventId = None) -> PrivateMessage:
        """Send a message to one subject. Requires the right to publish to `inbox.<to>`."""
        return await chat.whisper(await context(), message.to, message.text, event_id=event_id)

    @router.get("/private-messages")
    async def private_messages(last: Last = 50, before: Before = None) -> PrivateMessages:
        """Messages that the token's subject has sent and received, oldest first."""
        return await chat.private_messages(await context(), last=last, before=before)

    return router


def _route_class(admit: Admit, body_max_bytes: int) -> type[APIRoute]:
    class Route(APIRoute):
        """Checks the token before it reads the body, and answers with errors as JSON."""

        @override
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    await admit(request)
                    return await handle(await _bounded(request, body_max_bytes))
                except errors.NotifyError as error:
                    return _refusal(error)

            return guarded

    return Route


async def _bounded(request: Request, most: int) -> Request:
    """Read the body of `request`, and return a request that has it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise errors.BodyTooBig(f"The body of a request has at most {most} bytes")
    message = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def receive() -> dict[str, Any]:
        return message

    return Request(request.scope, receive)


def _refusal(error: errors.NotifyError) -> Response:
    if isinstance(error, errors.InternalError):
        logger.error("A request failed: %s", error.reason)
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == 401 else None
    return JSONResponse({"errors": [error.formatted()]}, error.http_status, headers)
