"""The line with a real softphone (baresip): heard, held, resumed, key presses, hang-up from both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from audio.types import Pcm

pytestmark = [pytest.mark.sip, pytest.mark.slow]


def tone(hz: int, ms: int) -> Pcm:
    t = np.arange(8 * ms)
    wave: Pcm = (8000 * np.sin(2 * np.pi * hz * t / 8000)).astype(np.int16)
    return wave


async def test_softphone_hears_what_we_play_and_is_heard(started: Any, softphone: Any) -> None:
    """Dial, both directions of audio, hold, resume, a key press, and the softphone hangs up."""
    line, events = await started()
    async with softphone(line.local_address) as say:
        assert await say("dial call-7 Agent") == "up"
        leg = await events.wait("up")
        assert (leg.call_ref, leg.side) == ("call-7", "agent")
        playback = leg.play(tone(440, 800))
        hz, peak = map(float, (await say("listen 400")).split())
        assert abs(hz - 440) < 5 and 6000 < peak < 9500
        assert (await playback.done).completed
        await say("tone 300")
        while True:
            frames = await events.wait("frames", events.count("frames") + 1)
            if max(int(np.abs(f.samples).max()) for f in frames) > 6000:
                break
        assert await say("hold") == "held"
        assert leg._audio.direction in ("recvonly", "inactive")
        assert await say("resume") == "resumed"
        assert leg._audio.direction == "sendrecv"
        assert await say("drain") == "drained"
        again = leg.play(tone(600, 1000))
        hz, _ = map(float, (await say("listen 300")).split())
        assert abs(hz - 600) < 5
        await again.done
        await say("press 5")
        assert await events.wait("dtmf") == "5"
        assert await say("hangup") == "down"
        assert await events.wait("down") == "hung up by the peer"
        assert await say("dial call-8 caller") == "up"
        (await events.wait("up", 2)).hang_up()
        assert await say("gone") == "gone"
    assert events.count("down") == 2 and line.status().legs == 0
