"""The kit for docs/spec.md passes the task service, and fails each server that breaks a rule."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from schema.app import create_app
from schema.settings import TaskSettings
from tests.conformance import model_server
from tests.conformance import wrong_servers as wrong
from tests.conformance.resume.__main__ import main
from tests.conformance.resume.checks import CHECKS
from tests.conformance.resume.contract import read
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.run import Report, chosen, run
from tests.conformance.resume.service import contract_of
from tests.e2e.conftest import SECRET
from tests.ports import refusing_port
from tests.servers import running
from tests.waiting import PATIENCE, SCALE

pytestmark = pytest.mark.processes

SPEC = Path(__file__).parents[2] / "docs" / "spec.md"
# The checks of a gap publish more events than this history keeps.
HISTORY, EXPIRES_AFTER = 12, 14
RIGHT: Mapping[str, float] = {"patience": PATIENCE, "settle": 0.3 * SCALE}
# A check of a server that says nothing takes the whole patience.
WRONG: Mapping[str, float] = {"patience": 1.5, "settle": 0.1}

MODEL: Mapping[str, Any] = {
    "connection_init": {"user": "{{token}}"},
    "subscription": {"query": "subscription { event }", "variables": {"topic": "{{topic}}"}},
    "publish": {"url": "/publish", "json": {"topic": "{{topic}}", "value": "{{value}}"}},
    "transports": ["websocket", "sse", "multipart"],
    "expires_after": model_server.HISTORY + 1,
}

FAULTS: Sequence[tuple[type[wrong.Fault], str]] = (
    (wrong.LosesCursors, "CUR-1/websocket"),
    (wrong.LosesCursors, "CUR-1/sse"),
    (wrong.LosesCursors, "CUR-1/multipart"),
    (wrong.GivesAllOneCursor, "CUR-2/websocket"),
    (wrong.SendsEventsOutOfOrder, "CUR-2/websocket"),
    (wrong.IgnoresAfter, "AFT-1/websocket"),
    (wrong.IgnoresAfter, "AFT-1/sse"),
    (wrong.IgnoresAfter, "AFT-1/multipart"),
    (wrong.IgnoresAfter, "AFT-3/single-connection"),
    (wrong.IgnoresAfter, "EXP-1/sse"),
    (wrong.IgnoresAfter, "EXP-1/multipart"),
    (wrong.RepeatsTheEventOfTheCursor, "AFT-1/websocket"),
    (wrong.BeginsLiveAfterABadCursor, "AFT-3/websocket"),
    (wrong.BeginsLiveAfterABadCursor, "EXP-1/websocket"),
    (wrong.MarksAll, "RED-2/websocket"),
    (wrong.MarksAll, "AFT-1/websocket"),
    (wrong.ForgetsMarks, "RED-1/websocket"),
    (wrong.ForgetsMarks, "RES-7/websocket"),
    (wrong.GivesRepeatsANewCursor, "RED-1/websocket"),
    (wrong.SaysNoPositions, "ARM-1/websocket"),
    (wrong.ForgetsPositions, "ARM-2/websocket"),
    (wrong.ForgetsPositions, "RES-7/websocket"),
    (wrong.AcknowledgesTooEarly, "RED-1/websocket"),
    (wrong.AcknowledgesTooEarly, "ACK-3/websocket"),
    (wrong.NeverTakesAnAnswer, "ACK-2/websocket"),
    (wrong.CountsNoPings, "ACK-1/websocket"),
    (wrong.BelievesPongs, "ACK-3/websocket"),
    (wrong.TakesPongsInOrderOnly, "PON-1/websocket"),
    (wrong.BelievesAnyPong, "PON-5/websocket"),
    (wrong.TakesABarePongOfAClientThatEchoes, "PON-4/websocket"),
    (wrong.ForgivesPongsThatNothingAskedFor, "PON-3/websocket"),
    (wrong.IgnoresBarePongs, "PON-2/websocket"),
    (wrong.ResumesForAnySubject, "RES-1/websocket"),
    (wrong.IgnoresDocumentsAndVariables, "RES-2/websocket"),
    (wrong.ResumesAnyId, "RES-3/websocket"),
    (wrong.ResumesWhatWasCompleted, "RES-4/websocket"),
    (wrong.SendsAfterComplete, "RES-5/websocket"),
    (wrong.AsksAboutOperationsWithACursor, "RES-6/websocket"),
    (wrong.EndsTheOlderOfTwoConnections, "RES-8/websocket"),
    (wrong.EndsAnOperationThatHasExpired, "EXP-2/websocket"),
    (wrong.HidesAGap, "EXP-2/websocket"),
    (wrong.TellsAGapOnce, "EXP-3/websocket"),
    (wrong.StopsBadly, "DRN-1/websocket"),
    (wrong.StopsBadly, "DRN-2/sse"),
    (wrong.SendsEventsWithoutIds, "SSE-1/sse"),
    (wrong.SaysNoBeginning, "SSE-2/sse"),
    (wrong.SaysNoTimeToReconnect, "SSE-3/sse"),
    (wrong.IgnoresLastEventId, "SSE-4/sse"),
    (wrong.PrefersAfter, "SSE-5/sse"),
    (wrong.IgnoresLastEventId, "SSE-6/sse"),
    (wrong.IgnoresLastEventId, "SSE-7/sse"),
    (wrong.TakesAnEmptyLastEventId, "SSE-8/sse"),
    (wrong.SendsADelimiterWithTheNextPart, "MUL-1/multipart"),
    (wrong.GivesSharedStreamsIds, "SGL-1/single-connection"),
    (wrong.RepeatsWithoutAMark, "SGL-2/single-connection"),
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    """The outcomes by the name of the fault. All run side by side, as most of it is waiting."""
    return asyncio.run(_all_reports(tmp_path_factory.mktemp("service")))


async def _all_reports(directory: Path) -> Mapping[str, Report]:
    settings: dict[str, Any] = {
        "jwt_secret": SECRET,
        "broker_url": "memory://",
        "database_url": f"sqlite:///{directory}/tasks.db",
        "history_length": HISTORY,
        "ack_interval": 0.02,
        "topic_linger": 0,
        "max_connections_per_subject": 1000,
        "new_topics_per_subject": 5000,
    }
    app = create_app(TaskSettings(**settings))
    async with running(wrong.wrong_servers(app)) as origin:

        async def check(name: str, ids: Sequence[str], **options: float) -> Report:
            url, stop = f"http://{origin}/{name}", None if name == "Fault" else ["true"]
            contract = contract_of([url], expires_after=EXPIRES_AFTER, stop=stop)
            kit = Kit(contract, **options)
            try:
                return await run(kit, chosen(ids), at_once=12)
            finally:
                await kit.close()

        names = {fault.__name__ for fault, _ in FAULTS}
        ids_of = {name: [id_ for fault, id_ in FAULTS if fault.__name__ == name] for name in names}
        right = await check("Fault", ["*"], **RIGHT)
        tasks = {name: asyncio.create_task(check(name, ids_of[name], **WRONG)) for name in names}
        return {"Fault": right} | {name: await task for name, task in tasks.items()}


def test_the_task_service_passes(reports: Mapping[str, Report]) -> None:
    report = reports["Fault"]
    assert not report.failed, report.text
    others = [each.id for each in report.outcomes if each.verdict != "pass"]
    assert others == ["DRN-1/websocket", "DRN-2/sse"]


async def test_a_server_that_was_written_from_the_specification_alone_passes(
    tmp_path: Path,
) -> None:
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(MODEL))
    async with running(model_server.Server(), lifespan="off") as origin:
        urls = [f"http://{origin}/graphql"]
        kit = Kit(read(file, urls, token="alice", other_token="bob"), settle=0.05)
        report = await run(kit, chosen(), at_once=8)
        await kit.close()
    assert not report.failed, report.text
    skipped = [each.id for each in report.outcomes if each.verdict == "skip"]
    assert all(id_.endswith("/single-connection") or id_.startswith("DRN-") for id_ in skipped)


@pytest.mark.parametrize(("fault", "id_"), FAULTS, ids=lambda each: getattr(each, "__name__", each))
def test_a_server_that_breaks_a_rule_fails(
    reports: Mapping[str, Report], fault: type[wrong.Fault], id_: str
) -> None:
    [outcome] = [each for each in reports[fault.__name__].outcomes if each.id == id_]
    assert outcome.verdict == ("warn" if id_ == "SSE-3/sse" else "fail"), outcome.text
    assert outcome.expected
    assert outcome.seen


def test_the_command_starts_the_task_service_itself_and_stops_it_for_the_last_checks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["--checks", "DRN-*"])
    output = capsys.readouterr().out
    assert code == 0, output
    assert output.splitlines()[-1] == "2 pass, 0 fail, 0 warn, 0 skip"


def test_the_command_says_in_json_what_failed_on_a_server_that_it_can_not_reach(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}/graphql"
        assert main(["--url", url, "--checks", "CUR-1/*", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["failed"] is True
    assert [each["verdict"] for each in report["checks"]] == ["fail"] * 4


def test_the_command_explains_a_contract_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tmp_path / "contract.json"
    contract.write_text('{"subscribe": {}}')
    assert main(["--url", "http://127.0.0.1:1/graphql", "--contract", str(contract)]) == 2
    assert "unknown members: subscribe" in capsys.readouterr().err


def test_each_rule_is_checked_or_the_page_says_that_none_can_check_it() -> None:
    page = SPEC.read_text()
    rules = re.findall(r"^\*\*([A-Z]{3}-\d+)\.\*\*", page, re.MULTILINE)
    sentence = page.partition("can't check these rules")[2].partition("Of RES-4")[0]
    unchecked = set(re.findall(r"[A-Z]{3}-\d+", sentence))
    checked = {each.rule for each in CHECKS}

    assert len(rules) == len(set(rules)) > 40
    assert checked | unchecked == set(rules)
    assert checked & unchecked <= {"CUR-3"}


def test_the_messages_of_the_conversations_are_json() -> None:
    conversations = SPEC.read_text().partition("## 12.")[2]
    messages = re.findall(r"^[<>] (?:data: )?(\{.*\})$", conversations, re.MULTILINE)

    assert len(messages) > 30
    assert all(isinstance(json.loads(message), dict) for message in messages)
