"""The viewer of an operation, and its rights to topics."""

from collections.abc import Callable
from typing import Any

import pytest

from gqlnotify import Principal, authorize, current_principal
from gqlnotify.auth import (
    Action,
    Viewer,
    check_right,
    current_viewer,
    view_as,
    viewing,
)
from gqlnotify.errors import Forbidden, Unauthenticated


async def test_outside_an_operation_there_is_no_viewer_and_no_limit() -> None:
    assert current_viewer() is None
    with pytest.raises(Unauthenticated):
        current_principal()
    await authorize("publish", "anything")


async def test_the_viewer_is_the_one_of_the_running_operation() -> None:
    alice, bob = Viewer(Principal("alice")), Viewer(Principal("bob"))
    with viewing(alice):
        assert current_principal() is alice.principal
        with viewing(bob):
            assert current_viewer() is bob
        assert current_viewer() is alice
        with viewing(None):
            assert current_viewer() is None
    assert current_viewer() is None


async def test_the_viewer_is_removed_even_if_the_operation_fails() -> None:
    with pytest.raises(ZeroDivisionError), viewing(Viewer(Principal("alice"))):
        raise ZeroDivisionError
    assert current_viewer() is None


async def test_a_task_keeps_its_viewer() -> None:
    view_as(Viewer(Principal("alice")))
    assert current_principal().subject == "alice"


async def test_the_viewers_right_is_checked() -> None:
    with viewing(Viewer(Principal("alice", subscribe=("a",)))):
        await authorize("subscribe", "a")
        with pytest.raises(Forbidden, match="publish 'a'"):
            await authorize("publish", "a")


async def test_the_right_to_one_of_several_topics_is_enough_and_a_refusal_names_the_first() -> None:
    viewer = Viewer(Principal("alice", subscribe=("b",)))

    await check_right(viewer, "subscribe", "a", "b")
    with pytest.raises(Forbidden, match="'a'"):
        await check_right(viewer, "subscribe", "a", "c")
    await check_right(None, "subscribe", "a")


def _sync(principal: Principal, action: Action, topic: str) -> bool:
    return (principal.subject, action, topic) == ("alice", "publish", "a")


async def _async(principal: Principal, action: Action, topic: str) -> bool:
    return _sync(principal, action, topic)


@pytest.mark.parametrize("hook", [_sync, _async])
async def test_a_hook_decides_instead_whether_sync_or_async(hook: Callable[..., Any]) -> None:
    viewer = Viewer(Principal("alice", subscribe=("*",), publish=("*",)), hook)

    await check_right(viewer, "publish", "a")
    with pytest.raises(Forbidden):
        await check_right(viewer, "publish", "b")
    with pytest.raises(Forbidden):
        await check_right(viewer, "subscribe", "a")


@pytest.mark.parametrize("topic", ["gqlnotify.revocations", "gqlnotify.", "gqlnotify.a.b"])
async def test_no_viewer_has_a_right_to_the_librarys_own_topics(topic: str) -> None:
    everything = Principal("alice", subscribe=("*", topic), publish=("*", topic))
    for viewer in (Viewer(everything), Viewer(everything, lambda *_: True)):
        for action in ("subscribe", "publish"):
            with pytest.raises(Forbidden):
                await check_right(viewer, action, topic)
            with pytest.raises(Forbidden):
                await check_right(viewer, action, topic, "a.view")
            await check_right(viewer, action, "gqlnotify")
