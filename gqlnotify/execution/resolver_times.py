"""How long the resolvers of a shared execution take, while somebody looks."""

from collections.abc import Awaitable, Callable
from functools import partial
from heapq import nlargest
from time import monotonic, perf_counter
from typing import Any

from graphql import MiddlewareManager
from typing_extensions import override

from gqlnotify.execution.strawberry_adapter import is_awaitable, is_default_resolver

LOOK_SECONDS = 10.0
"""How long resolvers are timed after a look. Timing them makes an execution slower."""
_SLOWEST = 5

Resolver = Callable[..., Any]


class ResolverTimes:
    """The calls and seconds of each resolver, counted for a while after each look."""

    def __init__(self) -> None:
        self._until = 0.0
        self._times: dict[str, tuple[int, float]] = {}
        self._timing = _Timing(self._note)

    @property
    def timing(self) -> MiddlewareManager | None:
        """What times the resolvers of the next event; None if no one looks."""
        if not self._until:
            return None
        if monotonic() < self._until:
            return self._timing
        self._until = 0.0
        return None

    def look(self) -> list[dict[str, Any]]:
        """Return the slowest resolvers by their total time, and time them for a while."""
        self._until = monotonic() + LOOK_SECONDS
        slowest = nlargest(_SLOWEST, self._times.items(), key=lambda each: each[1][1])
        return [
            {"name": name, "calls": calls, "seconds": seconds} for name, (calls, seconds) in slowest
        ]

    def _note(self, name: str, began: float) -> None:
        calls, seconds = self._times.get(name, (0, 0.0))
        self._times[name] = calls + 1, seconds + perf_counter() - began


class _Timing(MiddlewareManager):
    """Wraps the resolvers that an application has written."""

    def __init__(self, note: Callable[[str, float], None]) -> None:
        super().__init__()
        self._note = note
        self._wrapped: dict[Resolver, Resolver] = {}

    @override
    def get_field_resolver(self, field_resolver: Resolver) -> Resolver:
        """Return a resolver that does the same and is timed, unless it only reads an attribute."""
        if is_default_resolver(field_resolver):
            return field_resolver
        wrapped = self._wrapped.get(field_resolver)
        if wrapped is None:
            wrapped = self._wrapped[field_resolver] = partial(self._resolve, field_resolver)
        return wrapped

    def _resolve(self, resolve: Resolver, source: Any, info: Any, **arguments: Any) -> Any:
        if info.path.prev is None:
            # A subscription's own field returns the event.
            return resolve(source, info, **arguments)
        name, began = f"{info.parent_type.name}.{info.field_name}", perf_counter()
        made = resolve(source, info, **arguments)
        if is_awaitable(made):
            return self._awaited(made, name, began)
        self._note(name, began)
        return made

    async def _awaited(self, made: Awaitable[Any], name: str, began: float) -> Any:
        try:
            return await made
        finally:
            self._note(name, began)
