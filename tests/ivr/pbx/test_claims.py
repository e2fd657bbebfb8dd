"""Several Firmlines on one PBX: never two beside one call, and never nobody for long."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from ivr.pbx.ami import AmiMessage
from ivr.pbx.channels import Channel, endpoint_of
from ivr.pbx.claims import BEAT_MS, DEFER_MS, FORGET_MS, LEASE_MS, STICKY_MS, Claims
from ivr.pbx.watch import TAP_PREFIX, CallWatch
from ivr.pbx.watched import Claimed, Command, DropTap, PlaceTap
from policies.types import Side
from tests.ivr.pbx.test_watch import enter, event, leg, made, placed

US, THEM = "firmline", "firmline2"


def test_lease_runs_out_when_the_beat_stands_still_and_is_told_once() -> None:
    """Three seconds without a new value; a new one brings them back."""
    claims = Claims(US)
    assert claims.alone
    claims.saw("t1", THEM, "PJSIP/1", 0)
    claims.beat(THEM, "a-1", 1_000)
    claims.beat(THEM, "a-1", 2_000)
    assert claims.died(3_999) == [] and not claims.alone and claims.alive(THEM)
    assert claims.died(1_000 + LEASE_MS) == [THEM] and claims.alone
    assert claims.died(9_000) == [] and claims.taps_of(THEM) == ["PJSIP/1"]
    claims.beat(THEM, "a-2", 9_500)
    assert claims.alive(THEM)
    claims.gone("t1")
    assert claims.died(9_500 + LEASE_MS) == [THEM]
    assert claims.forget(9_500 + FORGET_MS) == [THEM] and claims.to_ask() == []


def test_name_written_down_long_ago_is_nobody_until_its_beat_moves() -> None:
    """A variable of the PBX outlives who set it."""
    claims = Claims(US)
    claims.heard_of(US, 0)
    claims.heard_of(THEM, 0)
    claims.beat(THEM, "a-77", 10)
    assert claims.alone and claims.to_ask() == [THEM] and claims.died(LEASE_MS + 10) == []
    claims.beat(THEM, "a-78", 5_000)
    assert claims.alive(THEM) and not claims.alone


def test_new_calls_are_spread_and_old_ones_left_to_who_had_them() -> None:
    """About half each; nobody waits when alone; a dead owner's calls wait for nobody."""
    ours, theirs = Claims(US), Claims(THEM)
    calls = [f"1700000000.{n}" for n in range(200)]
    assert all(ours.wait_ms(call, "") == 0 for call in calls)
    ours.saw("t", THEM, "PJSIP/1", 0)
    theirs.saw("u", US, "PJSIP/2", 0)
    first = [ours.wait_ms(call, "") for call in calls]
    assert [theirs.wait_ms(call, "") for call in calls] == [DEFER_MS - wait for wait in first]
    assert 60 < first.count(0) < 140
    assert ours.wait_ms(calls[0], THEM) == STICKY_MS and ours.wait_ms(calls[0], US) == 0
    ours.died(LEASE_MS)
    assert ours.wait_ms(calls[0], THEM) == 0


def test_run_that_loses_the_race_lets_go_of_the_call() -> None:
    """The PBX made the other's leg: our request for the caller is void, our leg at the agent goes, no new attempt."""
    watcher = CallWatch(US, ["2??"])
    taps = placed([*watcher.hear(enter("201", "b1"), 0), *watcher.hear(enter("pat", "b1"), 0)])
    watcher.hear(made(taps[Side.AGENT]), 5)
    commands = watcher.hear(made(taps[Side.CALLER], by=THEM), 6)
    assert Claimed("100.1", THEM) in commands
    assert [c.channel for c in commands if isinstance(c, DropTap)] == [leg(taps[Side.AGENT])]
    assert watcher.hear(event("OriginateResponse", Response="Failure", ActionID=taps[Side.CALLER].action_id), 7) == []
    assert watcher.hear(event("Hangup", Uniqueid=taps[Side.AGENT].tap_id), 8) == []
    assert watcher.next_deadline_ms() is None and watcher.unwanted("100.1") is not None


def test_call_is_taken_over_at_once_when_its_owner_is_dead_and_later_when_it_only_let_go() -> None:
    """The claim is free as soon as the leg is gone."""
    for dead in (True, False):
        watcher = CallWatch(US, ["2??"])
        there = [
            Channel("100.pat", "PJSIP/pat-00000001", "100.1", "b1"),
            Channel("100.201", "PJSIP/201-00000001", "100.1", "b1"),
            Channel(f"{TAP_PREFIX}100.pat-caller", f"PJSIP/{THEM}-00000002", "x", ""),
            Channel(f"{TAP_PREFIX}100.pat-agent", f"PJSIP/{THEM}-00000003", "y", ""),
        ]
        assert [c for c in watcher.resync(there, 0) if not isinstance(c, Claimed)] == []
        if dead:
            assert watcher.claims.died(LEASE_MS) == [THEM]
            assert {c.channel for c in watcher.peer_died(THEM) if isinstance(c, DropTap)} == {
                there[2].name,
                there[3].name,
            }
        free = watcher.hear(event("Hangup", Uniqueid=there[2].uniqueid), LEASE_MS)
        if not dead:
            assert placed(free) == {} and watcher.next_deadline_ms() == LEASE_MS + STICKY_MS
            free = watcher.on_deadline(LEASE_MS + STICKY_MS)
        [tap] = placed(free).values()
        assert tap.side is Side.CALLER and tap.was_elsewhere
        if dead:  # nobody else is known: both sides may be asked for, the agent's once its old leg is gone
            assert Side.AGENT in placed(watcher.hear(event("Hangup", Uniqueid=there[3].uniqueid), LEASE_MS + 1))
        else:
            watcher.hear(event("Hangup", Uniqueid=there[3].uniqueid), LEASE_MS + STICKY_MS)
            assert Side.AGENT in placed(watcher.hear(made(tap), LEASE_MS + STICKY_MS + 5))


def test_caller_moved_for_good_by_another_run_is_left_alone() -> None:
    """Their supervisor may be one of our guarded agents."""
    watcher = CallWatch(US, ["2??"])
    channel = Channel("100.pat", "PJSIP/pat-00000001", "100.1", "b1")
    watcher.was_handed_on(channel, 0)
    assert placed(watcher.resync([channel, Channel("100.202", "PJSIP/202-00000001", "100.1", "b1")], 0)) == {}
    assert placed(watcher.hear(enter("202", "b1"), 10)) == {}


def test_caller_left_half_moved_is_held_until_somebody_settles_it() -> None:
    """Adopted: not tapped while they ring, tapped again once they are back."""
    watcher = CallWatch(US, ["2??"])
    channel = Channel("100.pat", "PJSIP/pat-00000001", "100.1", "")
    call = watcher.adopt(channel, "201")
    assert watcher.resync([channel], 0) == [] and call.agent_ext == "201"
    assert [*watcher.hear(enter("201", "b2"), 10), *watcher.hear(enter("pat", "b2"), 11)] == []
    assert set(placed(watcher.settle_move(call, handed_on=False, now_ms=20))) == {Side.CALLER, Side.AGENT}


class Pbx:
    """One PBX with calls of ``pat`` and ``201``; tells every watcher everything, in order, each at its own pace."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.legs: dict[str, str] = {}
        self.watchers = {name: CallWatch(name, ["2??"], run_id=name) for name in (US, THEM)}
        self.mail: dict[str, deque[AmiMessage]] = {name: deque() for name in self.watchers}
        self.dead: set[str] = set()
        self.beats = self.bridge = 0

    def step(self, step: str) -> None:
        match step:
            case "us" | "them":
                self.deliver(US if step == "us" else THEM)
            case "wait":
                self.wait(300)
            case "beat":
                self.wait(BEAT_MS)
                self.beat()
            case "leg_lost" if self.legs:
                tap_id = next(iter(self.legs))
                del self.legs[tap_id]
                self.tell(event("Hangup", Uniqueid=tap_id))
            case "leave":
                self.tell(event("BridgeLeave", Uniqueid="100.201", BridgeUniqueid=f"b{self.bridge}"))
            case "enter":
                self.bridge += 1
                self.tell(enter("201", f"b{self.bridge}"))
                self.tell(enter("pat", f"b{self.bridge}"))

    def tell(self, message: AmiMessage) -> None:
        for name in self.watchers:
            self.mail[name].append(message)

    def obey(self, name: str, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, PlaceTap):
                if command.tap_id in self.legs:
                    self.tell(event("OriginateResponse", Response="Failure", ActionID=command.action_id))
                else:
                    self.legs[command.tap_id] = leg(command, name)
                    self.tell(made(command, by=name))
            elif isinstance(command, DropTap):
                for tap_id in [tap_id for tap_id, channel in self.legs.items() if channel == command.channel]:
                    assert endpoint_of(self.legs.pop(tap_id)) in (name, *self.dead), "a living one's leg was hung up"
                    self.tell(event("Hangup", Uniqueid=tap_id))

    def deliver(self, name: str) -> None:
        if self.mail[name] and name not in self.dead:
            self.obey(name, self.watchers[name].hear(self.mail[name].popleft(), self.now_ms))

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        for name, watcher in self.watchers.items():
            if name not in self.dead:
                self.obey(name, watcher.on_deadline(self.now_ms))

    def beat(self) -> None:
        self.beats += 1
        for name, watcher in self.watchers.items():
            other = THEM if name == US else US
            if name not in self.dead:
                if other not in self.dead:
                    watcher.claims.beat(other, str(self.beats), self.now_ms)
                for endpoint in watcher.claims.died(self.now_ms):
                    self.obey(name, watcher.peer_died(endpoint))

    def settle(self) -> None:
        """Everything is told, and time enough goes by."""
        for _ in range(40):
            while any(self.mail[name] for name in self.watchers if name not in self.dead):
                for name in self.watchers:
                    self.deliver(name)
            self.wait(BEAT_MS)
            self.beat()


STEPS = st.lists(
    st.sampled_from(["us", "them", "us", "them", "wait", "beat", "leave", "enter", "leg_lost"]), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([None, US, THEM]), st.integers(0, 60))
def test_two_runs_never_share_a_call_and_in_the_end_one_has_it_whole(
    steps: list[str], victim: str | None, when: int
) -> None:
    """Whatever order news reach them in, and whoever dies when: in the end one living run has both sides."""
    pbx = Pbx()
    pbx.step("enter")
    for number, step in enumerate(steps):
        if number == when and victim:
            pbx.dead.add(victim)
        pbx.step(step)
    pbx.step("enter")
    pbx.settle()
    assert set(pbx.legs) == {f"{TAP_PREFIX}100.pat-caller", f"{TAP_PREFIX}100.pat-agent"}, pbx.legs
    [owner] = {endpoint_of(channel) for channel in pbx.legs.values()}
    assert owner not in pbx.dead
    for message in (event("Hangup", Uniqueid="100.pat"), event("Hangup", Uniqueid="100.201")):
        pbx.tell(message)
    pbx.settle()
    assert pbx.legs == {}
    for name, watcher in pbx.watchers.items():
        assert name in pbx.dead or watcher.next_deadline_ms() is None
