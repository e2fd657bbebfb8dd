"""The real service as a child process: ``firmline run`` with a config of the demo's, watched over its own event feed.

A process of its own, as in a call centre: what the demo, the load test and the tests measure is what ops would get, and
it can be killed in the middle of a call to see what becomes of the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import httpx
import websockets
import yaml

import ivr
from ivr.clock import monotonic_ms, wall_s
from ivr.errors import FirmlineError

READY_CEILING_S = 60.0
"""A cold start reads a model from a slow disk and hashes it once."""
STOP_CEILING_S = 5.0

Row = dict[str, Any]


class ServiceProcess:
    """``async with ServiceProcess(folder, control_url=...) as service``: up and ready inside the block.

    ``folder`` takes config, journal and log. ``on_row`` gets every journal row, words included.
    """

    def __init__(
        self,
        folder: Path,
        *,
        control_url: str = "",
        overrides: dict[str, dict[str, Any]] | None = None,
        on_row: Callable[[Row], None] = lambda _row: None,
    ) -> None:
        self.folder = folder
        self.ready: dict[str, str] = {}
        self.on_row = on_row
        self.token = ""
        """Sent with every request, where the config names tokens."""
        self._config: dict[str, dict[str, Any]] = {
            "line": {"local_port": 0},
            "api": {"port": 0},
            "pbx": {"control_url": control_url, "transfer_to": "900"},
            "journal": {"path": str(folder / "journal.db")},
            "log": {"format": "json"},
        }
        for section, values in (overrides or {}).items():
            self._config.setdefault(section, {}).update(values)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._watching = asyncio.Event()

    async def __aenter__(self) -> ServiceProcess:
        try:
            await self.start()
        except BaseException:  # Ctrl-C while it starts too: nobody else would end it
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def uri(self) -> str:
        """What tap legs dial."""
        return self.ready["line"]

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self._process is None:
            raise FirmlineError("the service has not been started")
        return self._process.pid

    async def start(self) -> None:
        """Start and wait for the ready line.

        Raises:
            FirmlineError: it ended, or was not ready in time; the text holds the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._config), encoding="utf-8")
        root = str(Path(ivr.__file__).parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        with _log_file(self.folder) as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ivr", "run", "--json", "-c", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_CEILING_S)
        except TimeoutError:
            line = b""
        if not line:
            await self.stop()
            raise FirmlineError(f"the service did not become ready: {self._last_words()}")
        self.ready = json.loads(line)
        self._watch = asyncio.get_running_loop().create_task(self._follow())
        await asyncio.wait_for(self._watching.wait(), STOP_CEILING_S)

    async def _follow(self) -> None:
        url = self.ready["api"].replace("http://", "ws://") + "/api/events?words=1"
        with contextlib.suppress(websockets.ConnectionClosed, OSError):
            async with websockets.connect(url, proxy=None, additional_headers=self._headers) as socket:
                self._watching.set()
                async for text in socket:
                    self.on_row(json.loads(text))

    async def press(self, ext: str, key: str) -> dict[str, Any]:
        """Press a key for an agent, as a softphone would."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{self.ready['api']}/api/agents/{ext}/{key}", headers=self._headers)
        answer.raise_for_status()
        pressed: dict[str, Any] = answer.json()
        return pressed

    async def get(self, path: str) -> httpx.Response:
        """GET from its API."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.get(f"{self.ready['api']}{path}", headers=self._headers)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def kill(self) -> None:
        """SIGKILL: what a crash looks like to the calls."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; leaves nothing running."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_CEILING_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None

    def _last_words(self) -> str:
        lines = (self.folder / "firmline.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _log_file(folder: Path) -> BinaryIO:
    return open(folder / "firmline.log", "ab")


def monotonic_of(at: str) -> int:
    """The monotonic time (ms) of a journal row's wall time ``at``: clocks of one machine, so good to a millisecond."""
    return monotonic_ms() - round((wall_s() - datetime.fromisoformat(at).timestamp()) * 1000)
