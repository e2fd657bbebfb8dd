"""A leg from which nothing comes is asked whether its peer still knows it: a PBX that died sends no BYE."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from ivr.lines.transactions import Timers

pytestmark = pytest.mark.sip

PROBING = Timers(t1_ms=10, t2_ms=40, t4_ms=50, stop_ms=100, probe_ms=60)


def reply_to(request: Any, status: str) -> str:
    """A response with what RFC 3261 section 8.2.6.2 copies."""
    kept = [f"{k}: {v}" for k, v in request.headers if k.lower() in ("via", "from", "to", "call-id", "cseq")]
    return "\r\n".join([f"SIP/2.0 {status}", *kept, "Content-Length: 0", "", ""])


async def test_silent_leg_that_the_peer_knows_stays_until_the_peer_forgets_it(started: Any, peer_of: Any) -> None:
    """OPTIONS inside the dialog (RFC 3261 section 12.2): 200 or even 405 keeps the leg, 481 ends it (RFC 5057)."""
    line, events = await started(timers=PROBING)
    peer = await peer_of(line)
    dialog = await peer.call()
    for status in ("200 OK", "405 Method Not Allowed"):
        asked = await peer.request("OPTIONS")
        assert asked.get("Call-ID") == dialog.call_id and asked.to_tag == dialog.tag
        peer.send(reply_to(asked, status))
    asked = await peer.request("OPTIONS")
    assert line.status().legs == 1 and events.count("down") == 0
    peer.send(reply_to(asked, "481 Call/Transaction Does Not Exist"))
    assert "no longer knows" in await events.wait("down")
    assert line.status().legs == 0


async def test_silent_leg_of_a_dead_peer_is_given_up(started: Any, peer_of: Any) -> None:
    """No answer within 64*T1: the leg is over, its port and its place are free."""
    line, events = await started(timers=PROBING)
    peer = await peer_of(line)
    await peer.call()
    await peer.request("OPTIONS")
    assert "no answer" in await events.wait("down")
    assert line.status().legs == 0


async def test_leg_with_audio_is_not_asked_until_it_falls_silent(started: Any, peer_of: Any) -> None:
    """Whoever sends RTP is alive."""
    line, events = await started(timers=replace(PROBING, probe_ms=200))
    peer = await peer_of(line)
    dialog = await peer.call()
    port = int(dialog.answer.body.split("m=audio ")[1].split()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtp:
        for sequence in range(30):
            packet = bytes([0x80, 0]) + sequence.to_bytes(2, "big") + (sequence * 160).to_bytes(4, "big") + b"ssrc"
            rtp.sendto(packet + b"\xff" * 160, ("127.0.0.1", port))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.request("OPTIONS"), 0.02)
    assert events.count("frames") > 0
    peer.send(reply_to(await peer.request("OPTIONS"), "200 OK"))
    await dialog.ask("BYE", 200)


async def test_leg_that_ends_while_it_is_asked_leaves_nothing(started: Any, peer_of: Any) -> None:
    """A BYE crosses our OPTIONS; the late 481 changes nothing."""
    line, events = await started(timers=PROBING)
    peer = await peer_of(line)
    dialog = await peer.call()
    asked = await peer.request("OPTIONS")
    await dialog.ask("BYE", 200)
    peer.send(reply_to(asked, "481 Gone"))
    await peer.settle()
    assert events.values("down") == ["hung up by the peer"] and line.status().legs == 0
