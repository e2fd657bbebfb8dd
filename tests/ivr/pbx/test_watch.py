"""Who is tapped, when, and what is forgotten: manager events in, commands out, no PBX needed."""

from __future__ import annotations

import zlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ivr.pbx.ami import AmiMessage
from ivr.pbx.channels import Channel, endpoint_of
from ivr.pbx.guarded import Mark
from ivr.pbx.watch import RELEASE_MS, CallWatch
from ivr.pbx.watched import CallOver, Command, DropTap, PlaceTap
from policies.types import Side


def event(name: str, **fields: str) -> AmiMessage:
    return AmiMessage((("Event", name), *fields.items()))


def enter(who: str, bridge: str, number: int = 1, linkedid: str = "100.1") -> AmiMessage:
    return event(
        "BridgeEnter",
        Channel=f"PJSIP/{who}-{number:08x}",
        Uniqueid=f"100.{who}",
        Linkedid=linkedid,
        BridgeUniqueid=bridge,
    )


def watch() -> CallWatch:
    return CallWatch("firmline", ["2??"], ["299", "3*"])


def bridged(watcher: CallWatch, now_ms: int = 0) -> list[Command]:
    commands = [*watcher.hear(enter("201", "b1"), now_ms), *watcher.hear(enter("pat", "b1"), now_ms)]
    for tap in placed(commands).values():
        assert watcher.hear(made(tap), now_ms) == []
    return commands


def leg(tap: PlaceTap, by: str = "firmline") -> str:
    """The name of the channel that an attempt makes."""
    return f"PJSIP/{by}-{zlib.crc32(tap.action_id.encode()):08x}"


def made(tap: PlaceTap, by: str = "firmline") -> AmiMessage:
    return event("Newchannel", Uniqueid=tap.tap_id, Channel=leg(tap, by))


def placed(commands: list[Command]) -> dict[Side, PlaceTap]:
    return {c.side: c for c in commands if isinstance(c, PlaceTap)}


def test_endpoint_is_read_from_a_channel_name() -> None:
    """The technology and the serial are cut off; names with dashes stay whole."""
    assert endpoint_of("PJSIP/201-0000000a") == "201"
    assert endpoint_of("PJSIP/my-trunk-eu-0000000a") == "my-trunk-eu"
    assert endpoint_of("DAHDI/i1/5551234-1f") == "i1/5551234"
    assert endpoint_of("PJSIP/201") == "201" and endpoint_of("nonsense") == ""


def test_agent_and_caller_in_one_bridge_are_tapped_once_each() -> None:
    """Two taps, one a side, under the call's Linkedid and with the agent's extension; more events change nothing."""
    watcher = watch()
    taps = placed(bridged(watcher))
    assert {side: tap.channel for side, tap in taps.items()} == {
        Side.CALLER: "PJSIP/pat-00000001",
        Side.AGENT: "PJSIP/201-00000001",
    }
    assert {tap.call_ref for tap in taps.values()} == {"100.1"} and {t.agent_ext for t in taps.values()} == {"201"}
    assert watcher.hear(enter("pat", "b1"), 10) == [] and watcher.next_deadline_ms() is None


def test_colleagues_agents_and_our_own_legs_are_no_callers() -> None:
    """Agents among themselves, supervisors and tap legs are nobody to be warned."""
    for other in ("202", "299", "301", "firmline"):
        watcher = watch()
        assert [*watcher.hear(enter("201", "b"), 0), *watcher.hear(enter(other, "b"), 0)] == []


def test_local_channels_do_not_hide_a_pair() -> None:
    """A queue's Local member sits between two bridges of one Linkedid."""
    watcher = watch()
    local = event("BridgeEnter", Channel="Local/201@m-0000000a;1", Uniqueid="l1", Linkedid="100.1", BridgeUniqueid="b1")
    commands = [
        *watcher.hear(enter("pat", "b1"), 0),
        *watcher.hear(local, 0),
        *watcher.hear(enter("201", "b2"), 0),
    ]
    assert set(placed(commands)) == {Side.CALLER, Side.AGENT}


def test_new_bridge_means_drop_first_and_tap_again_when_the_old_leg_is_gone() -> None:
    """On a moved channel an old leg's prompts may be lost, and two legs at once would hear twice."""
    watcher = watch()
    first = placed(bridged(watcher))
    watcher.hear(event("BridgeLeave", Uniqueid="100.pat", BridgeUniqueid="b1"), 1000)
    commands = [*watcher.hear(enter("202", "b2", 5), 1100), *watcher.hear(enter("pat", "b2"), 1100)]
    assert {c.channel for c in commands if isinstance(c, DropTap)} == {leg(tap) for tap in first.values()}
    assert placed(commands) == {}
    again = [watcher.hear(event("Hangup", Uniqueid=tap.tap_id), 1200) for tap in first.values()]
    taps = placed([*again[0], *again[1]])
    assert {tap.agent_ext for tap in taps.values()} == {"202"} and {t.call_ref for t in taps.values()} == {"100.1"}


def test_pair_apart_is_released_after_a_while_and_together_again_in_time_is_not() -> None:
    """A caller who waits alone is not listened to; a short gap costs nothing."""
    watcher = watch()
    first = placed(bridged(watcher))
    watcher.hear(event("BridgeLeave", Uniqueid="100.201", BridgeUniqueid="b1"), 1000)
    assert watcher.next_deadline_ms() == 1000 + RELEASE_MS
    assert watcher.hear(enter("201", "b1"), 2000) == [] and watcher.next_deadline_ms() is None
    watcher.hear(event("BridgeLeave", Uniqueid="100.201", BridgeUniqueid="b1"), 3000)
    dropped = watcher.on_deadline(3000 + RELEASE_MS)
    assert {c.channel for c in dropped if isinstance(c, DropTap)} == {leg(tap) for tap in first.values()}
    assert watcher.next_deadline_ms() is None


def test_tap_that_fails_is_tried_again_with_growing_patience_and_never_given_up() -> None:
    """A phone of ours that is not registered yet must not lose the call, nor flood the PBX."""
    watcher = watch()
    taps = placed(bridged(watcher))
    now_ms, waits = 0, []
    for _ in range(8):
        watcher.hear(event("OriginateResponse", Response="Failure", ActionID=taps[Side.CALLER].action_id), now_ms)
        due_ms = watcher.next_deadline_ms()
        assert due_ms is not None
        waits.append(due_ms - now_ms)
        now_ms = due_ms
        taps = placed(watcher.on_deadline(now_ms))
        assert set(taps) == {Side.CALLER}
    assert waits == [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]


def test_tap_to_be_dropped_before_it_exists_is_dropped_when_it_appears() -> None:
    """Originate is answered before the channel is made."""
    watcher = watch()
    taps = placed([*watcher.hear(enter("201", "b1"), 0), *watcher.hear(enter("pat", "b1"), 0)])
    watcher.hear(event("BridgeLeave", Uniqueid="100.201", BridgeUniqueid="b1"), 0)
    assert watcher.on_deadline(RELEASE_MS) == []
    for tap in taps.values():
        assert watcher.hear(made(tap), RELEASE_MS + 1) == [DropTap(leg(tap), "given up before it was made")]


def test_caller_gone_ends_the_call_and_drops_both_taps() -> None:
    """Nothing is left, whatever the taps were doing."""
    watcher = watch()
    taps = placed(bridged(watcher))
    commands = watcher.hear(event("Hangup", Uniqueid="100.pat"), 500)
    assert CallOver("100.1") in commands
    assert {c.channel for c in commands if isinstance(c, DropTap)} == {leg(tap) for tap in taps.values()}
    assert watcher.call("100.1") is None and watcher.next_deadline_ms() is None


def test_call_handed_on_is_not_tapped_again_even_by_another_agent() -> None:
    """After our own transfer the caller belongs to whoever took over."""
    watcher = watch()
    taps = placed(bridged(watcher))
    call = watcher.call("100.1")
    assert call is not None
    watcher.hold(call)
    assert watcher.hear(enter("202", "b2"), 10) == [] and watcher.hear(enter("pat", "b2"), 10) == []
    dropped = watcher.settle_move(call, handed_on=True, now_ms=20)
    assert {c.channel for c in dropped if isinstance(c, DropTap)} == {leg(tap) for tap in taps.values()}
    assert [watcher.hear(event("Hangup", Uniqueid=tap.tap_id), 30) for tap in taps.values()] == [[], []]


def test_resync_finds_live_calls_drops_foreign_legs_and_forgets_the_dead() -> None:
    """What a restart or a lost connection missed is made up for from the PBX's list."""
    watcher = watch()
    bridged(watcher)
    present = [
        Channel("100.kim", "PJSIP/kim-00000007", "100.7", "b7"),
        Channel("100.202", "PJSIP/202-00000008", "100.7", "b7"),
        Channel("x", "PJSIP/firmline-00000009", "x", ""),
        Channel("100.lone", "PJSIP/lone-0000000a", "100.9", ""),
    ]
    commands = watcher.resync(present, 1000)
    assert CallOver("100.1") in commands
    assert DropTap("PJSIP/firmline-00000009", "a leg that an earlier run left behind") in commands
    assert {tap.call_ref for tap in placed(commands).values()} == {"100.7"}
    taps = [Channel(tap.tap_id, "PJSIP/firmline-0000000b", tap.tap_id, "") for tap in placed(commands).values()]
    assert watcher.resync([*present[:2], *taps], 2000) == [], "known taps are kept"


def test_two_callers_of_one_linkedid_are_two_calls() -> None:
    """A conference's second outsider gets a reference of their own."""
    watcher = watch()
    bridged(watcher)
    commands = watcher.hear(enter("kim", "b1", 9), 10)
    assert {tap.call_ref for tap in placed(commands).values()} == {"100.1.2"}


class Pbx:
    """Obeys the watch, and tells it what happens; fails when one side of a call is tapped twice."""

    def __init__(self) -> None:
        self.watcher, self.live, self.now_ms = watch(), dict[str, PlaceTap](), 0
        self.channel = {who: 1 for who in WHO}

    def unique(self, who: str) -> str:
        return f"{who}.{self.channel[who]}"

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, PlaceTap):
                assert command.tap_id not in self.live
                self.live[command.tap_id] = command

    def tell(self, name: str, **fields: str) -> None:
        self.obey(self.watcher.hear(event(name, **fields), self.now_ms))

    def tap_gone(self, *, failed: bool = False) -> None:
        tap_id = next(iter(self.live), "")
        tap = self.live.pop(tap_id, None)
        if failed:
            self.tell("OriginateResponse", Response="Failure", ActionID=tap.action_id if tap else "")
        else:
            self.tell("Hangup", Uniqueid=tap_id)

    def step(self, kind: str, who: str, bridge: int) -> None:
        self.now_ms += 700
        match kind:
            case "enter":
                name = f"PJSIP/{who}-{self.channel[who]:08x}"
                where = {"Linkedid": f"100.{bridge}", "BridgeUniqueid": f"b{bridge}"}
                self.tell("BridgeEnter", Channel=name, Uniqueid=self.unique(who), **where)
            case "leave":
                self.tell("BridgeLeave", Uniqueid=self.unique(who), BridgeUniqueid=f"b{bridge}")
            case "hangup":
                self.tell("Hangup", Uniqueid=self.unique(who))
                self.channel[who] += 1  # Asterisk never gives a Uniqueid twice
            case "wait":
                self.obey(self.watcher.on_deadline(self.now_ms))
            case _:
                self.tap_gone(failed=kind == "tap_failed")


WHO = ("pat", "kim", "201", "202", "299")
KINDS = ("enter", "enter", "leave", "hangup", "tap_gone", "tap_failed", "wait")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(WHO), st.integers(1, 3)), max_size=40))
def test_watch_never_taps_twice_and_forgets_everything_in_the_end(steps: list[tuple[str, str, int]]) -> None:
    """Whatever order events come in: at most one live tap a side of a call, and none once everybody has hung up."""
    pbx = Pbx()
    for step in steps:
        pbx.step(*step)
    for who in WHO:
        pbx.tell("Hangup", Uniqueid=pbx.unique(who))
    while pbx.live:
        pbx.tap_gone()
    assert pbx.watcher.next_deadline_ms() is None and pbx.watcher.on_deadline(pbx.now_ms + 99_999) == []


class Thorough(CallWatch):
    """Looks at everybody after each event, as slow as that is."""

    def _settle(self, now_ms: int) -> None:
        self._touch_all()
        super()._settle(now_ms)


PARTIES = ("pat", "sam", "kim", "201", "202", "211")


class Both:
    """A quick watch and a thorough one, told the same; each method is one happening."""

    def __init__(self, *, alone: bool) -> None:
        self.quick, self.slow = (kind("firmline", ["20?"], ["299"]) for kind in (CallWatch, Thorough))
        self.now_ms = 0
        self.asked: list[PlaceTap] = []
        self.there: dict[str, str] = {}
        if not alone:
            for watcher in (self.quick, self.slow):
                watcher.claims.saw("of another call", "firmline2", "PJSIP/firmline2-00000001", 0)
        self.enter("201", 1, 1), self.enter("pat", 1, 1)
        self.made(0, "firmline"), self.made(1, "firmline")

    def agreed(self, of_quick: list[Command], of_slow: list[Command]) -> None:
        assert of_quick == of_slow and self.quick.next_deadline_ms() == self.slow.next_deadline_ms()
        self.asked += placed(of_quick).values()

    def told(self, message: AmiMessage) -> None:
        self.agreed(self.quick.hear(message, self.now_ms), self.slow.hear(message, self.now_ms))

    def enter(self, who: str, bridge: int, link: int) -> None:
        self.told(enter(who, f"b{bridge}", linkedid=f"100.{link}"))

    def leave(self, who: str, bridge: int) -> None:
        self.told(event("BridgeLeave", Uniqueid=f"100.{who}", BridgeUniqueid=f"b{bridge}"))

    def gone(self, who: str) -> None:
        self.told(event("Hangup", Uniqueid=f"100.{who}"))

    def mark(self, who: str, is_agent: bool) -> None:
        self.agreed(*(w.mark(f"100.{who}", Mark(is_agent), self.now_ms) for w in (self.quick, self.slow)))

    def made(self, which: int, by: str) -> None:
        tap = self.asked[which % len(self.asked)] if self.asked else None
        if tap is not None and tap.tap_id not in self.there:
            self.there[tap.tap_id] = by
            self.told(made(tap, by=by))

    def tap_gone(self, which: int) -> None:
        if self.there:
            tap_id = sorted(self.there)[which % len(self.there)]
            del self.there[tap_id]
            self.told(event("Hangup", Uniqueid=tap_id))

    def failed(self, which: int) -> None:
        if self.asked:
            failed = self.asked[which % len(self.asked)].action_id
            self.told(event("OriginateResponse", Response="Failure", ActionID=failed))

    def move(self, which: int, handed_on: bool) -> None:
        outcomes = []
        for watcher in (self.quick, self.slow):
            calls = watcher.calls()
            if not calls:
                return
            watcher.hold(call := calls[which % len(calls)])
            outcomes.append(watcher.settle_move(call, handed_on=handed_on, now_ms=self.now_ms))
        self.agreed(*outcomes)

    def left(self, which: int) -> None:
        outcomes = []
        for watcher in (self.quick, self.slow):
            refs = [call.ref for call in watcher.calls()] or ["none"]
            outcomes.append(watcher.left_to_others(refs[which % len(refs)], self.now_ms))
        self.agreed(*outcomes)

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.agreed(self.quick.on_deadline(self.now_ms), self.slow.on_deadline(self.now_ms))


SOME = st.integers(0, 9)
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just(Both.enter), st.sampled_from(PARTIES), st.integers(0, 3), st.integers(1, 3)),
        st.tuples(st.just(Both.leave), st.sampled_from(PARTIES), st.integers(0, 3)),
        st.tuples(st.just(Both.gone), st.sampled_from(PARTIES)),
        st.tuples(st.just(Both.mark), st.sampled_from(PARTIES), st.booleans()),
        st.tuples(st.just(Both.made), SOME, st.sampled_from(["firmline", "firmline", "firmline2"])),
        st.tuples(st.sampled_from([Both.tap_gone, Both.failed, Both.left]), SOME),
        st.tuples(st.just(Both.move), SOME, st.booleans()),
        st.tuples(st.just(Both.wait), st.sampled_from([20, 700, 3_100])),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(HAPPENINGS, st.booleans())
def test_looking_only_around_what_changed_misses_nothing(happenings: list[tuple[Any, ...]], alone: bool) -> None:
    """Whatever happens in whatever order: the commands are those of a watch that looks at every channel each time."""
    both = Both(alone=alone)
    for happening, *particulars in happenings:
        happening(both, *particulars)
