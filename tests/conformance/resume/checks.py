"""The list of all checks. Each proves one rule of docs/spec.md."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.conformance.resume.kit import Kit

Run = Callable[[Kit], Awaitable[None]]
OnTransport = Callable[[Kit, str], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """A check of one rule, on one transport.

    Attributes:
        rule: the rule's id in docs/spec.md.
        title: what a server that passes does.
        run: raises `Failure`, or `Skip`.
        transport: what the server must have for it.
        required: whether the rule is a MUST. Another one only warns.
        needs_resuming: whether only servers are checked that resume without a cursor.
        stops: whether the server has stopped after it.
    """

    rule: str
    title: str
    run: Run
    transport: str = "websocket"
    required: bool = True
    needs_resuming: bool = False
    stops: bool = False

    @property
    def id(self) -> str:
        """The name of the check. A rule may have one for each transport."""
        return f"{self.rule}/{self.transport}"


CHECKS: list[Check] = []


def check(
    rule: str,
    title: str,
    *,
    transport: str = "websocket",
    required: bool = True,
    stops: bool = False,
) -> Callable[[Run], Run]:
    """Add a check of a rule."""

    def add(run: Run) -> Run:
        CHECKS.append(Check(rule, title, run, transport, required, stops=stops))
        return run

    return add


def resume_check(rule: str, title: str, *, stops: bool = False) -> Callable[[Run], Run]:
    """Add a check of a rule about resuming without a cursor."""

    def add(run: Run) -> Run:
        CHECKS.append(Check(rule, title, run, needs_resuming=True, stops=stops))
        return run

    return add


def check_on(*transports: str, rule: str, title: str) -> Callable[[OnTransport], OnTransport]:
    """Add a check of a rule for each transport."""

    def add(run: OnTransport) -> OnTransport:
        CHECKS.extend(Check(rule, title, _on(run, each), each) for each in transports)
        return run

    return add


def _on(run: OnTransport, transport: str) -> Run:
    async def on_transport(kit: Kit) -> None:
        await run(kit, transport)

    return on_transport
