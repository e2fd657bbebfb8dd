"""A baresip softphone in a process of its own: reads one command a line, answers one line. Not a test module."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import baresip
import numpy as np
from baresip import Account, CallState, Config, Event, Runtime, UserAgent
from baresip.errors import AudioNotActive, AudioRestarted

RATE_HZ = 8000


class Softphone:
    """Dials, plays a tone, listens, holds, resumes, presses keys, hangs up."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.seen: dict[tuple[int, Event], baresip.StackEvent] = {}
        self.changed = asyncio.Event()

    async def start(self) -> None:
        self.runtime = Runtime(native_log_level="error")
        await self.runtime.start(Config(net_interface="127.0.0.1", max_concurrent_calls=None))
        self.runtime.subscribe(self._note)
        account = Account(
            user="alice", domain="127.0.0.1", password="", reg_interval=0, extra_params=("video_codecs=none",)
        )
        self.agent = await UserAgent.create(self.runtime, account)

    def _note(self, event: baresip.StackEvent) -> None:
        # Kept from before dial() returns: a fast answer is over by then.
        self.seen[(event.call, event.event)] = event
        self.changed.set()

    async def _until(self, event: Event) -> None:
        while (self.call.handle, event) not in self.seen:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)

    async def dial(self, call_ref: str, side: str) -> str:
        headers = {"X-Firmline-Call": call_ref, "X-Firmline-Side": side}
        self.call = await self.agent.dial(f"sip:firmline@{self.target}", headers=headers)
        await self._until(Event.CALL_ESTABLISHED)
        if self.call.state is not CallState.ESTABLISHED:
            # The answer was over before dial() returned, so the call object never heard of it.
            self.call._on_stack_event(self.seen[(self.call.handle, Event.CALL_ESTABLISHED)])
        return "up"

    async def tone(self, hz: str) -> str:
        t = np.arange(RATE_HZ)
        wave = (8000 * np.sin(2 * np.pi * float(hz) * t / RATE_HZ)).astype(np.int16)
        return str(self.call.audio.write(wave.tobytes()))

    async def listen(self, ms: str) -> str:
        """Strongest frequency and peak of what is heard within that time."""
        wanted, heard = RATE_HZ * int(ms) // 1000, np.zeros(0, np.int16)
        for _ in range(200):
            heard = np.concatenate([heard, np.frombuffer(self._read(), np.int16)])
            loud = heard[np.abs(heard) > 500]
            if len(loud) > wanted // 2 and len(heard) >= wanted:
                break
            await asyncio.wait_for(asyncio.shield(self._tick()), 1)
        start = int(np.argmax(np.abs(heard) > 500)) if len(heard) else 0
        part = heard[start : start + wanted].astype(float)
        if not len(part):
            return "0 0"
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        hz = float(np.argmax(spectrum)) * RATE_HZ / len(part)
        return f"{hz:.0f} {np.abs(part).max():.0f}"

    async def drain(self) -> str:
        """Throw away what is still on its way through the softphone: read until nothing loud came for 100 ms."""
        quiet = 0
        while quiet < 5:
            heard = np.frombuffer(self._read(), np.int16)
            quiet = 0 if len(heard) and np.abs(heard).max() > 500 else quiet + 1
            await self._tick()
        return "drained"

    def _read(self) -> bytes:
        try:
            return bytes(self.call.audio.read(65536))
        except (AudioNotActive, AudioRestarted):
            return b""  # a re-INVITE replaces the softphone's streams; the new ones come within a moment

    async def _tick(self) -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.02, future.set_result, None)
        await future

    async def hold(self) -> str:
        await self.call.hold()
        return "held"

    async def resume(self) -> str:
        await self.call.resume()
        return "resumed"

    async def press(self, digits: str) -> str:
        await self.call.send_dtmf(digits)
        return "pressed"

    async def hangup(self) -> str:
        await self.call.hangup()
        return "down"

    async def gone(self) -> str:
        await self._until(Event.CALL_CLOSED)
        return "gone"

    async def ready(self) -> str:
        return "ready"


async def main(target: str) -> None:
    phone = Softphone(target)
    await phone.start()
    while True:
        words = (await asyncio.to_thread(sys.stdin.readline)).split()
        if not words or words[0] == "quit":
            break
        command: Callable[..., Awaitable[str]] = getattr(phone, words[0])
        try:
            answer = await command(*words[1:])
        except Exception as exc:
            answer = f"error {type(exc).__name__} {exc}"
        print(answer, flush=True)
    await phone.runtime.close()
    print("bye", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
