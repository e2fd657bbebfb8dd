"""A flood from outside the trusted networks costs next to nothing and is not answered datagram for datagram."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.sip


async def test_flood_of_strangers_is_mostly_dropped_unread_and_a_live_call_goes_on(started: Any, peer_of: Any) -> None:
    """A thousand INVITEs: a hundred a second are read and refused; whoever is trusted is served as ever."""
    line, events = await started(trusted_peers=("127.0.0.1/32",))
    peer, stranger = await peer_of(line), await peer_of(line, "127.0.0.2")
    live = await peer.call()
    for number in range(1_000):
        stranger.dialog().send("INVITE")
        if number % 100 == 99:
            await peer.settle()
    await live.ask("INFO", 200)
    read, ignored = line.counters["untrusted"], line.counters["untrusted_ignored"]
    assert read + ignored == 1_000 and 100 <= read <= 400, "a hundred for each second that this took"
    assert events.count("offered") == 1 and line.counters["untrusted_invites"] == read
    assert {reply.status for reply in stranger.inbox} == {403}
    await live.ask("BYE", 200)
