"""What pages ask for besides live calls: transcripts, incidents, how the service stands, take-over and pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ivr.api.incidents import incidents_of
from ivr.api.recent import Recent
from ivr.desk import ServiceDesk
from ivr.pbx.direct import DirectControl
from ivr.store import Journal
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.types import Hotkey, Key
from tests.ivr.test_access import Guarded, bearer
from tests.ivr.test_direct import Peer, says, serving

NOON = datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0)
STATUS = {
    "version": "1", "ready": True, "calls": 3, "pack": "standard@1", "mode": "full", "lag_ms": 0,
    "queues": {"sales": {"pack": "standard@1", "mode": "suggest"}},
    "config_error": "config.yaml:3: policy.zzz: unknown key", "config_error_at": "2026-01-01T00:00:00.000+00:00",
    "config_restart_wanted": ["api.port"], "tokens_problem": "gone",
}  # fmt: skip


class Told:
    """Journal rows of calls, written at times of their own."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def call(self, call_id: str, ext: str, began: datetime, *rows: tuple[JournalEvent, dict[str, Any]]) -> None:
        started = (JournalEvent.CALL_STARTED, {"call_ref": f"ref-{call_id}", "agent_ext": ext, "mode": "full"})
        for t_ms, (event, data) in enumerate((started, *rows)):
            at = (began + timedelta(milliseconds=t_ms)).astimezone(UTC).isoformat(timespec="milliseconds")
            self.journal.write(JournalRow(call_id, event, at, t_ms, data))


WARNED = (
    (JournalEvent.STRIKE, {"category": "insult", "text": "you useless idiot, my card is 4111 1111 1111 1111"}),
    (JournalEvent.RUNG, {"from": "clear", "to": "warned", "cause": "prompt_heard"}),
    (
        JournalEvent.ACTION_DONE,
        {"action": "play", "prompt": "warning", "mode": "full", "why": "the caller insulted you"},
    ),
    (JournalEvent.HOTKEY, {"key": "pardon", "by": "agent:201"}),
)
OVER = (JournalEvent.CALL_ENDED, {"why": "hung up"})


class Pages(Guarded):
    """The guarded API with a real desk behind it: journal, live rows, a PBX over HTTP."""

    def __init__(self, folder: Path, peer: Peer) -> None:
        self.journal = Journal(str(folder / "journal.db"))
        self.journal.start()
        self.control = DirectControl(peer.url, None, 2_000)
        self.service = ServiceDesk(self.journal.database, self.control, lambda: STATUS)
        super().__init__(folder, desk=self.service)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Pages]:
    async with serving(says(200, {"ok": True})) as peer:
        running = Pages(tmp_path, peer)
        running.peer = peer  # type: ignore[attr-defined]
        await running.control.start()
        await running.server.start()
        yield running
        await running.server.stop()
        await running.control.stop()
        running.journal.stop()


@pytest.fixture
async def http(api: Pages) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=api.origin, trust_env=False, timeout=5) as client:
        yield client


async def test_incidents_of_today_tell_words_steps_and_outcome_to_whom_they_concern(
    api: Pages, http: httpx.AsyncClient
) -> None:
    """Newest first, numbers masked, calm calls left out; an agent sees their own, another day is empty."""
    told = Told(api.journal)
    told.call("a", "201", NOON, *WARNED, OVER)
    told.call("b", "202", NOON + timedelta(minutes=1), *WARNED)
    told.call("c", "201", NOON + timedelta(minutes=2), OVER)
    told.call("d", "201", NOON - timedelta(days=1), *WARNED, OVER)
    assert api.journal.flush()
    answer = await http.get("/api/incidents", headers=bearer(api.token["supervisor"]))
    seen = answer.json()
    assert seen["day"] == NOON.date().isoformat() and [each["call_id"] for each in seen["incidents"]] == ["b", "a"]
    first = seen["incidents"][1]
    assert (first["highest_rung"], first["outcome"], first["agent_ext"], first["warnings"]) == (
        "warned",
        "went on",
        "201",
        1,
    )
    assert first["words"] == ["you useless idiot, my card is [number]"] and seen["incidents"][0]["outcome"] == "live"
    assert (
        first["actions"][0]["action"] == "play"
        and first["actions"][0]["mode"] == "full"
        and first["actions"][0]["done"]
    )
    assert first["keys"][0]["key"] == "pardon" and first["keys"][0]["by"] == "agent:201"
    mine = await http.get("/api/incidents", headers=bearer(api.token["agent"]))
    assert [each["call_id"] for each in mine.json()["incidents"]] == ["a"]
    day = (NOON - timedelta(days=1)).date().isoformat()
    before = await http.get("/api/incidents", params={"day": day}, headers=bearer(api.token["ops"]))
    assert [each["call_id"] for each in before.json()["incidents"]] == ["d"]
    wrong = await http.get("/api/incidents", params={"day": "yesterday"}, headers=bearer(api.token["ops"]))
    assert wrong.status_code == 422 and "day:" in wrong.json()["error"]


def test_incidents_days_meet_without_gap_or_overlap(tmp_path: Path) -> None:
    """A call that begins at midnight, this machine's time, is of the day that begins."""
    journal = Journal(str(tmp_path / "j.db"))
    journal.start()
    midnight = NOON.replace(hour=0)
    for number, began in enumerate((midnight - timedelta(milliseconds=5), midnight, midnight + timedelta(hours=23))):
        Told(journal).call(f"c{number}", "201", began, *WARNED, OVER)
    assert journal.flush()
    today = [each["call_id"] for each in incidents_of(journal.database, NOON.date())]
    yesterday = [each["call_id"] for each in incidents_of(journal.database, NOON.date() - timedelta(days=1))]
    journal.stop()
    assert (today, yesterday) == (["c2", "c1"], ["c0"])


async def test_transcript_of_a_live_call_has_the_form_of_the_stream(api: Pages, http: httpx.AsyncClient) -> None:
    """Words masked as ever; what is for the supervisor's ears is not for the agent's; another's call is 403."""
    at = "2026-01-01T00:00:01.000+00:00"
    rows: list[JournalRow | LiveRow] = [
        JournalRow("c1", JournalEvent.CALL_STARTED, at, 0, {"agent": "201"}),
        JournalRow("c1", JournalEvent.UTTERANCE, at, 5, {"words": "it is 4111 1111 1111 1111", "side": "caller"}),
        LiveRow("c1", LiveEvent.PARTIAL, at, 6, {"words": "passing"}),
        LiveRow("c1", LiveEvent.SPEAKING, at, 6, {"side": "caller", "speaking": True}),
        LiveRow("c1", LiveEvent.TOLD, at, 7, {"audience": "supervisor", "detail": "please join", "page": True}),
    ]
    for row in rows:
        api.service.hear(row)
    answer = (await http.get("/api/calls/c1/transcript", headers=bearer(api.token["agent"]))).json()
    assert answer["call"]["id"] == "c1" and answer["call"]["rungs"][0] == "clear"
    assert [event["event"] for event in answer["events"]] == ["call_started", "utterance"]
    assert answer["events"][1]["data"]["words"] == "it is [number]"
    wall = (await http.get("/api/calls/c1/transcript", headers=bearer(api.token["supervisor"]))).json()
    assert wall["events"][-1]["data"] == {"audience": "supervisor", "detail": "please join", "page": True}
    assert (await http.get("/api/calls/c2/transcript", headers=bearer(api.token["agent"]))).status_code == 403
    assert (await http.get("/api/calls/zz/transcript", headers=bearer(api.token["agent"]))).status_code == 404


def test_recent_rows_are_bounded_and_forgotten_when_the_call_ends() -> None:
    """A long call keeps its latest rows; stray rows of a call that is over bring it back for nobody."""
    recent = Recent(rows=3, max_calls=2)

    def row(call: str, event: JournalEvent, t_ms: int) -> JournalRow:
        return JournalRow(call, event, "", t_ms)

    for call in ("a", "b", "c"):
        recent.add(row(call, JournalEvent.CALL_STARTED, 0))
    for t_ms in range(1, 6):
        recent.add(row("b", JournalEvent.UTTERANCE, t_ms))
    assert recent.of("a") == [] and [r.t_ms for r in recent.of("b")] == [3, 4, 5]
    recent.add(row("b", JournalEvent.CALL_ENDED, 9))
    recent.add(row("b", JournalEvent.ACTION_DONE, 10))
    assert recent.of("b") == []


async def test_status_tells_faults_of_the_configuration_to_those_who_can_mend_them(
    api: Pages, http: httpx.AsyncClient
) -> None:
    """Version, rule, queues and lag for all; errors for supervisors and ops."""
    for role, told in (("agent", False), ("supervisor", True), ("ops", True)):
        status = (await http.get("/api/status", headers=bearer(api.token[role]))).json()
        assert status["queues"]["sales"]["mode"] == "suggest" and status["mode"] == "full"
        assert bool(status["config_error"]) is bool(status["tokens_problem"]) is told
        assert status["config_restart_wanted"] == (["api.port"] if told else [])


async def test_take_over_names_where_the_call_goes_and_an_agent_may_not(api: Pages, http: httpx.AsyncClient) -> None:
    """With ``to``: the supervisor's; without: where transfers go. Anything else in the body is refused."""
    sam, jo = bearer(api.token["supervisor"]), bearer(api.token["agent"])
    assert (await http.post("/api/calls/c1/transfer", json={"to": "305"}, headers=sam)).status_code == 200
    assert (await http.post("/api/agents/201/transfer", json={"to": "306"}, headers=sam)).status_code == 200
    assert (await http.post("/api/calls/c1/transfer", headers=jo)).status_code == 200
    assert (await http.post("/api/calls/c1/transfer", json={"to": None}, headers=jo)).status_code == 200
    refused = await http.post("/api/calls/c1/transfer", json={"to": "0900123"}, headers=jo)
    assert refused.status_code == 403 and "only a supervisor" in refused.json()["error"]
    for body in ({"to": "3 05"}, {"to": ""}, {"to": "305\n"}, {"to": "3" * 81}, {"target": "305"}, ["305"]):
        answer = await http.post("/api/calls/c1/transfer", json=body, headers=sam)
        assert answer.status_code == 422 and list(answer.json()) == ["error"], body
    assert api.directory.pressed == [
        ("c1", Hotkey(Key.TRANSFER, "supervisor:Sam", "305")),
        ("c1", Hotkey(Key.TRANSFER, "supervisor:Sam", "306")),
        ("c1", Hotkey(Key.TRANSFER, "agent:201")),
        ("c1", Hotkey(Key.TRANSFER, "agent:201")),
    ]


async def test_pause_without_a_call_reaches_the_pbx_and_its_refusal_the_agent(
    api: Pages, http: httpx.AsyncClient
) -> None:
    """Confirmed: told so. Refused: 502 with the PBX's words. Another's: 403, and nothing is asked."""
    jo = bearer(api.token["agent"])
    answer = await http.post("/api/agents/201/pause", headers=jo)
    assert answer.status_code == 200 and answer.json() == {"ext": "201", "paused": True}
    assert (await http.post("/api/agents/201/unpause", headers=jo)).json()["paused"] is False
    assert (await http.post("/api/agents/202/pause", headers=jo)).status_code == 403
    asked = [(each["action"], each["agent"], each["call"]) for each in api.peer.asked]  # type: ignore[attr-defined]
    assert asked == [("pause_agent", "201", ""), ("unpause_agent", "201", "")]
    api.peer.answer = says(409, {"ok": False, "error": "no such agent"})  # type: ignore[attr-defined]
    refused = await http.post("/api/agents/201/pause", headers=jo)
    assert refused.status_code == 502 and "no such agent" in refused.json()["error"]
