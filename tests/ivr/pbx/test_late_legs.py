"""Legs and manager events come by two ways, SIP and AMI, in any order: a call that is not ours never stays with us."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import permutations

import pytest

from ivr.call import CallOptions
from ivr.calls import Calls
from ivr.judge import load_pack
from ivr.listener import Listener, ListenerOptions
from ivr.memory import Memory
from ivr.metrics import Metrics
from ivr.pbx.ami import AmiMessage
from ivr.pbx.claims import STICKY_MS
from ivr.pbx.direct import DirectControl
from ivr.pbx.watch import CallWatch
from ivr.pbx.watched import CallOver, Claimed, Command, DropTap, PlaceTap
from ivr.prompts import load_catalogue
from ivr.session import World
from ivr.types import JournalRow, LiveRow
from policies.engine import Engine
from policies.types import Side
from tests.ivr.pbx.test_claims import THEM, US
from tests.ivr.pbx.test_watch import enter, event, made, placed


@dataclass
class Offered:
    """A leg as the line offers it; what becomes of it is written down."""

    id: str
    call_ref: str
    side: str
    headers: dict[str, str] = field(default_factory=dict)
    rate_hz: int = 8_000
    fate: str = "offered"

    def answer(self) -> None:
        self.fate = "answered"

    def reject(self, status: int, reason: str) -> None:
        self.fate = f"{status} {reason}"

    def hang_up(self) -> None:
        self.fate = "hung up"


class Journal:
    """Rows of calls."""

    def __init__(self) -> None:
        self.rows: list[JournalRow] = []

    def write(self, row: JournalRow) -> None:
        self.rows.append(row)

    def live(self, row: LiveRow) -> None: ...


class Seam:
    """The watch over a PBX and the calls of a service, joined as the service joins them; news are put in by hand."""

    def __init__(self) -> None:
        self.watch, self.journal = CallWatch(US, ["2??"], run_id="us"), Journal()
        control, metrics = DirectControl(None, None, 1_000), Metrics("1")
        world = World(
            asyncio.get_running_loop(), None, load_catalogue(None), control, self.journal, metrics, "299", Memory()  # type: ignore[arg-type]
        )  # fmt: skip
        pack = load_pack("standard")
        self.calls = Calls(
            world,
            lambda agent, _queue: Engine(pack, agent_ext=agent),
            lambda side: Listener(ListenerOptions(), side),
            CallOptions(),
            list,
        )
        self.calls.unwanted = self.watch.unwanted
        self.taps: dict[Side, PlaceTap] = {}
        self.now_ms = 0

    def tell(self, message: AmiMessage) -> None:
        self.now_ms += 5
        self.obey(self.watch.hear(message, self.now_ms))

    def obey(self, commands: list[Command]) -> None:
        """As the attachment does, without a PBX: taps are asked for, and claims and ends told."""
        self.taps |= placed(commands)
        for command in commands:
            match command:
                case Claimed():
                    self.calls.claimed_elsewhere(command.call_ref)
                case CallOver():
                    self.calls.call_over(command.call_ref)
                case PlaceTap() | DropTap():
                    pass

    def bridged(self) -> None:
        self.tell(enter("201", "b1"))
        self.tell(enter("pat", "b1"))

    def up(self, leg: Offered) -> None:
        if leg.fate == "answered":
            self.calls.on_leg_up(leg)  # type: ignore[arg-type]

    def down(self, leg: Offered) -> None:
        if leg.fate == "hung up":
            self.calls.on_leg_down(leg, "over")  # type: ignore[arg-type]


async def test_leg_of_a_call_that_another_has_is_let_go_whatever_order_the_news_come_in() -> None:
    """Offered, up, and the other's claim with the end of our own leg's channel: in the end the call is not here."""
    for order in permutations(("offered", "up", "theirs", "gone")):
        if order.index("offered") > order.index("up") or order.index("theirs") > order.index("gone"):
            continue  # one way keeps its order
        seam = Seam()
        seam.bridged()
        ours, leg = seam.taps[Side.AGENT], Offered("leg", "100.1", "agent", {"x-firmline-agent": "201"})
        seam.tell(made(ours))
        for news in order:
            match news:
                case "offered":
                    seam.calls.on_leg_offered(leg)  # type: ignore[arg-type]
                case "up":
                    seam.up(leg)
                case "theirs":
                    seam.tell(made(seam.taps[Side.CALLER], by=THEM))
                case "gone":
                    seam.tell(event("Hangup", Uniqueid=ours.tap_id))
        seam.down(leg)
        assert len(seam.calls) == 0, order
        assert leg.fate in ("480 another Firmline is beside this call", "hung up"), order
        begun = [row for row in seam.journal.rows if row.event == "call_started"]
        assert len(begun) == (order.index("up") < order.index("theirs")), "a leg that came too late began a call"


async def test_leg_is_welcome_again_when_the_other_has_let_go() -> None:
    """A refusal lasts as long as the other's claim."""
    seam = Seam()
    seam.bridged()
    theirs = made(seam.taps[Side.CALLER], by=THEM)
    seam.tell(theirs)
    seam.tell(event("Hangup", Uniqueid=seam.taps[Side.AGENT].tap_id))
    seam.tell(event("Hangup", Uniqueid=theirs.get("Uniqueid")))
    seam.obey(seam.watch.on_deadline(seam.now_ms + STICKY_MS))
    leg = Offered("again", "100.1", "caller")
    seam.calls.on_leg_offered(leg)  # type: ignore[arg-type]
    seam.up(leg)
    assert leg.fate == "answered" and len(seam.calls) == 1
    seam.calls.close_all("the test is over")


@pytest.mark.parametrize("answered", [True, False])
async def test_leg_that_comes_up_after_its_call_is_over_begins_nothing(answered: bool) -> None:
    """The caller hung up while our phone was being rung: no call of no seconds is listed or journalled."""
    seam = Seam()
    seam.bridged()
    leg = Offered("leg", "100.1", "caller")
    if answered:
        seam.calls.on_leg_offered(leg)  # type: ignore[arg-type]
    seam.tell(event("Hangup", Uniqueid="100.pat"))
    if not answered:
        seam.calls.on_leg_offered(leg)  # type: ignore[arg-type]
    seam.up(leg)
    assert leg.fate == ("hung up" if answered else "480 the call is over")
    assert len(seam.calls) == 0 and seam.journal.rows == []


async def test_new_call_of_the_same_name_is_welcome() -> None:
    """A second caller of one Linkedid (a conference) takes the name that has become free."""
    seam = Seam()
    seam.bridged()
    seam.tell(event("Hangup", Uniqueid="100.pat"))
    seam.tell(enter("sam", "b1"))
    assert seam.watch.call("100.1") is not None
    leg = Offered("leg", "100.1", "caller")
    seam.calls.on_leg_offered(leg)  # type: ignore[arg-type]
    assert leg.fate == "answered"
