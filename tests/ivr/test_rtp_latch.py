"""Source latch: the peer's media gets in from behind NAT, nobody else's does."""

from __future__ import annotations

from ivr.latch import SILENT_MS, SourceLatch

PEER = ("192.0.2.1", 4000)
NATTED = ("192.0.2.1", 61234)
ELSEWHERE = ("203.0.113.9", 4000)
ATTACKER = ("198.51.100.66", 666)


def latch(to: tuple[str, int] = PEER) -> SourceLatch:
    made = SourceLatch()
    made.expect(to)
    return made


def test_signalled_source_is_accepted_and_others_then_refused() -> None:
    """The ordinary call."""
    made = latch()
    assert made.accept(PEER, 0)
    assert not made.accept(ATTACKER, 10)
    assert not made.accept(NATTED, 10)
    assert made.source == PEER


def test_other_port_of_the_signalled_host_may_latch() -> None:
    """NAT that keeps the address and changes the port."""
    made = latch()
    assert made.accept(NATTED, 0)
    assert made.source == NATTED


def test_first_source_may_stand_in_for_a_private_sdp_address() -> None:
    """NAT that changes both: symmetric RTP."""
    made = latch(("10.0.0.5", 4000))
    assert made.accept(ELSEWHERE, 0)
    assert not made.accept(ATTACKER, 20)
    assert made.source == ELSEWHERE


def test_attacker_that_came_first_is_displaced_by_the_signalled_source_at_once() -> None:
    """A better-ranked source needs no silence."""
    made = latch()
    assert made.accept(ATTACKER, 0)
    assert made.accept(PEER, 20)
    assert not made.accept(ATTACKER, 40)
    assert made.source == PEER


def test_silent_source_may_be_replaced_and_comes_back_when_better() -> None:
    """A peer whose NAT mapping changed is heard again after a while; the true address always wins it back."""
    made = latch()
    assert made.accept(PEER, 0)
    assert not made.accept(NATTED, SILENT_MS - 1)
    assert made.accept(NATTED, SILENT_MS)
    assert made.accept(PEER, SILENT_MS + 20)


def test_media_moved_by_signalling_latches_anew() -> None:
    """A re-INVITE with another address: old packets in flight do not keep the latch from the new source."""
    made = latch()
    made.accept(PEER, 0)
    made.expect(ELSEWHERE)
    assert made.accept(PEER, 20)
    assert made.source is None
    assert made.accept(ELSEWHERE, 40)
    assert not made.accept(PEER, 60)
    assert made.source == ELSEWHERE


def test_media_moved_to_another_natted_source_latches_at_once() -> None:
    """The new leg is itself behind NAT; the one left behind does not outrank it."""
    made = latch()
    made.accept(PEER, 0)
    made.expect(("10.0.0.7", 9000))
    made.accept(PEER, 10)
    assert made.accept(ELSEWHERE, 20)
    assert made.source == ELSEWHERE


def test_only_the_sdp_moved_and_the_old_source_goes_on() -> None:
    """Behind NAT the private address may change while packets come from where they always came."""
    made = latch(("10.0.0.5", 4000))
    made.accept(ELSEWHERE, 0)
    made.expect(("10.0.0.5", 4002))
    for now_ms in range(20, SILENT_MS + 60, 20):
        assert made.accept(ELSEWHERE, now_ms)
    assert made.source == ELSEWHERE


def test_same_address_again_keeps_the_latch() -> None:
    """Hold and resume without a move change nothing."""
    made = latch(("10.0.0.5", 4000))
    made.accept(ELSEWHERE, 0)
    made.expect(("10.0.0.5", 4000))
    assert made.source == ELSEWHERE
    assert not made.accept(ATTACKER, 20)
