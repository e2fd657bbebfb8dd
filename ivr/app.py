"""The one composition root: from a validated config to a running service, and down again.

Order of start: everything that can be wrong on our own side first (pack, prompts, journal, ports); then line and PBX,
so that calls which outlived an earlier process are tapped again within a second or two; then, beside those calls, what
takes longer: the API, the sentence model and the speech model, which decoding processes have been loading all the
while. What is said meanwhile waits for them. Order of stop: the reverse. The human calls live in the PBX and are not
touched by either.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import structlog

import ivr
from ivr.api.base import Check
from ivr.api.feed import EventFeed
from ivr.api.parts import api_access, api_hosts, api_reach
from ivr.api.server import ApiServer, listen_at
from ivr.asr import AsrPool
from ivr.calls import Calls
from ivr.config import Config, resolve_secret
from ivr.database import Database, sqlite_path
from ivr.desk import ServiceDesk
from ivr.ears import begin_ears
from ivr.ladders import LadderStore
from ivr.lines.base import LineStatus, RegistrationState
from ivr.lines.pyvoip import PyvoipLine
from ivr.log import configure_logging
from ivr.memory import Memory
from ivr.menu_desk import MenuDesk
from ivr.metrics import Metrics
from ivr.parts import (
    Parts,
    asterisk_options,
    call_options,
    delivery_options,
    listener_factory,
    load_prompts,
    load_rules,
    menu_options,
    webhook_hooks,
)
from ivr.pbx.asterisk import AsteriskPbx
from ivr.pbx.direct import DirectControl
from ivr.reload import Applied, ConfigSource, Loaded, Reloader, in_force
from ivr.session import World
from ivr.stall import StallMonitor
from ivr.store import Journal
from ivr.types import JournalRow, LiveRow
from ivr.webhook_outbox import Outbox
from ivr.webhook_sender import WebhookSender
from policies.engine import Engine
from policies.types import Hotkey, Key

if TYPE_CHECKING:
    from fastapi import FastAPI

log = structlog.get_logger("firmline.app")

LAG_FAULT_MS = 5_000
"""A warning that comes later than this answers words that everybody has forgotten: ops should know."""


def asr_check(pool: AsrPool) -> Check:
    """Whether somebody is listening, and how late."""
    stats = pool.stats()
    if pool.loading:
        return Check("ears", False, "the speech model is being loaded; what is said meanwhile is heard then")
    lag = f"oldest waiting {stats.lag_ms} ms" if stats.lag_ms else "no backlog"
    if stats.workers == 0:
        return Check("ears", False, "no decoding process is alive; calls go on unheard until one is back")
    if stats.lag_ms > LAG_FAULT_MS:
        return Check(
            "ears", False, f"{stats.queued} segments wait, {lag}: add ears.workers or calls will be heard late"
        )
    return Check("ears", True, f"{stats.workers} decoding processes, {lag}")


def _import_api() -> Callable[..., FastAPI]:
    """FastAPI takes as long to import as the PBX to connect a call, so it comes after the calls."""
    from ivr.api.app import create_app

    return create_app


def make_control(config: Config) -> DirectControl | AsteriskPbx:
    """What acts on the human calls, by ``pbx.kind``; nothing is opened yet.

    Raises:
        ConfigError: a secret cannot be read or used.
    """
    if config.pbx.kind == "asterisk":
        return AsteriskPbx(asterisk_options(config))
    secret = resolve_secret(config.pbx.control_secret, "pbx.control_secret")
    return DirectControl(config.pbx.control_url or None, secret or None, config.pbx.timeout_ms)


def make_memory(control: DirectControl | AsteriskPbx, ladders: LadderStore) -> Memory:
    """Where the ladders of live calls are kept: with the journal, and where the PBX can, with the call itself."""
    if isinstance(control, AsteriskPbx):
        return Memory([control.notes, ladders], control.notes.key)
    return Memory([ladders])


class App:
    """The service."""

    def __init__(self, config: Config, source: ConfigSource | None = None, ears: AsrPool | None = None) -> None:
        """``ears``: a recogniser that loads already; it is ours to stop."""
        self.config = config
        self._source, self._ears = source, ears
        self.reloader: Reloader | None = None
        self.metrics = Metrics(version=ivr.__version__)
        self.feed = EventFeed()
        self.registered = asyncio.Event()
        self.api: ApiServer | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Bring everything up.

        Raises:
            FirmlineError: with what is wrong and how to mend it; whatever was up is down again.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, loop = self.config, asyncio.get_running_loop()
        self.asr = self._ears or await begin_ears(config)
        self._stack.push_async_callback(self.asr.stop)
        pack, queues = load_rules(config, meaning=False)
        self.parts = Parts(pack, load_prompts(config, pack, *queues.values()), queues)
        line_options = config.line.options()
        self.access = api_access(config)
        listener = listen_at(config.api.host, config.api.port, api_reach(config))
        self._stack.callback(listener.close)
        self._open_journal()
        self.control = make_control(config)
        self.desk = ServiceDesk(self.journal.database, self.control, self._status)
        self._world = World(
            loop,
            self.asr,
            self.parts.catalogue,
            self.control,
            self,
            self.metrics,
            config.pbx.transfer_to,
            make_memory(self.control, self._ladders),
            self._menus(),
        )
        options, kept = call_options(config), config.journal.caller_number
        self.calls = Calls(self._world, self._engine, listener_factory(config), options, self.checks, kept)
        self.calls.on_registration_changed = self._registration
        self.line = PyvoipLine(line_options)
        self._listen_to_pbx()
        self.feed.agent_of = self.calls.agent_of
        self.stall = StallMonitor(self.metrics)
        self._stack.callback(self.stall.stop)
        self.stall.start()
        self._expose_counters()
        self._stack.push_async_callback(self._stop_api)  # after the line: whoever watches sees how calls were left
        self._stack.push_async_callback(self.line.stop)
        self._stack.callback(self.calls.close_all, "Firmline is stopping")
        await self.line.start(self.calls)
        self._stack.push_async_callback(self.control.stop)
        await self.control.start()
        await self._start_beside_calls(listener)

    def _open_journal(self) -> None:
        config = self.config
        self.journal = Journal(
            config.journal.path,
            store_words=config.journal.store_words,
            retention_s=config.journal.retention_days * 86_400 or None,
        )
        self._stack.callback(self.journal.stop)
        self.journal.start()
        self._ladders = LadderStore(Database(sqlite_path(config.journal.path)))
        self._stack.callback(self._ladders.stop)
        self._ladders.start()
        self.webhooks = WebhookSender(webhook_hooks(config), Outbox(self.journal.database), delivery_options(config))
        self._stack.push_async_callback(self.webhooks.stop)
        self.webhooks.start()

    async def _start_beside_calls(self, listener: socket.socket) -> None:
        """What the calls can wait for: they are being tapped meanwhile."""
        config = self.config
        create_app = await asyncio.to_thread(_import_api)
        hosts = api_hosts(config)
        api = create_app(self.calls, self.metrics, self.feed, access=self.access, desk=self.desk, hosts=hosts)
        self.api = ApiServer(api, config.api.host, config.api.port, api_reach(config), listener)
        await self.api.start()
        parts = await asyncio.to_thread(self.parts.with_meaning)
        await self.asr.loaded()
        self.parts = parts
        self.calls.adopt_pack()  # before the first words are judged: nobody has waited for more than the model
        self.asr.open()
        if self._source is not None:
            loaded = Loaded(config, self.parts.pack, self.parts.catalogue, self.parts.queues)
            self.reloader = Reloader(self._source, loaded, self._apply, self.metrics)
            self._stack.push_async_callback(self.reloader.stop)
            self.reloader.start()

    async def _stop_api(self) -> None:
        if self.api is not None:
            await self.api.stop()

    def _listen_to_pbx(self) -> None:
        """What an attachment that watches calls by itself has to say."""
        if isinstance(self.control, AsteriskPbx):
            self.control.on_call_over = self.calls.call_over
            self.control.on_phone_key = self._phone_key
            self.control.on_claimed = self.calls.claimed_elsewhere
            self.calls.unwanted = self.control.unwanted
            self.control.on_progress = self.calls.ending_sent
            self.control.on_connected = self.line.register_again
            self.control.on_standing_by = lambda: self.line.stand_back("standing by, not registered")

    def _apply(self, new: Loaded) -> Applied:
        """Changed settings, checked whole: new calls get them, live calls the pack where its ladder has their shape."""
        config, taken, restart = in_force(self.config, new.config)
        self.config = config
        self.parts = replace(self.parts, pack=new.pack, catalogue=new.catalogue, queues=new.queues)
        self._world = replace(self._world, catalogue=new.catalogue, transfer_to=config.pbx.transfer_to)
        if self._world.menus is not None:
            self._world.menus.use(new.catalogue, config.pbx.transfer_to)
        self.calls.use(self._world, listener_factory(config), call_options(config))
        took, kept = self.calls.adopt_pack()
        self.webhooks.use(webhook_hooks(config), delivery_options(config))
        configure_logging(config.log.level, json=config.log.format == "json", pii=config.log.pii)
        return Applied(taken, restart, took, kept)

    def _expose_counters(self) -> None:
        """Totals that the engines keep themselves, read when somebody asks for ``/metrics``."""
        self.metrics.counted_elsewhere("sip", "SIP messages and faults by kind", lambda: dict(self.line.counters))
        self.metrics.counted_elsewhere("rtp", "RTP packets, frames and faults by kind", self.line.media_totals)
        self.metrics.measured_elsewhere(
            "running",
            "Tasks on the event loop and RTP ports in use",
            lambda: {"tasks": len(asyncio.all_tasks()), "rtp_ports": self.line.media_ports},
        )
        now = ("queued", "lag_ms", "workers")
        self.metrics.counted_elsewhere(
            "asr", "Work of the recogniser", lambda: {k: v for k, v in asdict(self.asr.stats()).items() if k not in now}
        )
        self.metrics.measured_elsewhere(
            "asr_now", "The recogniser's queue and processes", lambda: {k: asdict(self.asr.stats())[k] for k in now}
        )
        self.metrics.counted_elsewhere(
            "journal", "Journal rows that were lost", lambda: {"dropped": self.journal.dropped}
        )
        self.metrics.measured_elsewhere(
            "journal_now", "Journal rows that wait for the database", lambda: {"waiting": self.journal.spilled}
        )
        self.metrics.counted_elsewhere("webhooks", "Webhook messages by what became of them", self.webhooks.totals)
        self.metrics.measured_elsewhere("webhooks_waiting", "Webhook messages that wait", self.webhooks.waiting)

    def reload(self) -> None:
        """Read the settings again now (SIGHUP); before the start is over they are read anyhow."""
        if self.reloader is not None:
            self.reloader.ask()

    async def stop(self) -> None:
        """Take everything down, last first; bounded, and never raises."""
        try:
            await self._stack.aclose()
        except Exception:
            log.exception("not everything stopped cleanly")

    def write(self, row: JournalRow) -> None:
        """One journal row: to the file and to whoever watches (``ivr.session.Sink``)."""
        self.journal.write(row)
        self.feed.publish(row)
        self.desk.hear(row)
        self.webhooks.hear(row)

    def live(self, row: LiveRow) -> None:
        """Words that may still change: to whoever watches, and nowhere else."""
        self.feed.publish(row)
        self.desk.hear(row)

    def checks(self) -> list[Check]:
        """What ``/readyz`` reports."""
        line = self.line.status()
        journal_ok, journal_detail = self.journal.health()
        problem = self.control.problem()
        return [
            Check("line", line.registration is RegistrationState.REGISTERED, line.detail),
            asr_check(self.asr),
            Check("journal", journal_ok, journal_detail),
            Check("pbx", problem is None or self._warnings_only, problem or self._pbx_is_well()),
        ]

    def ready(self) -> dict[str, str]:
        """The ready line of ``firmline run``."""
        assert self.api is not None
        host, port = self.line.local_address
        api_host, api_port = self.api.address
        return {
            "event": "ready",
            "version": ivr.__version__,
            "line": f"sip:{self.config.line.username}@{host}:{port}",
            "pbx": self._pbx_words(),
            "model": f"{self.asr.model.name} ({self.asr.model.source})",
            "api": f"{self.api.scheme}://{api_host}:{api_port}",
        }

    @property
    def _warnings_only(self) -> bool:
        """Nobody asked for control, so its absence is no fault."""
        return self.config.pbx.kind == "direct" and not self.config.pbx.control_url

    def _pbx_is_well(self) -> str:
        notice = self.control.notice() if isinstance(self.control, AsteriskPbx) else None
        return notice or "the PBX takes our requests"

    def _pbx_words(self) -> str:
        pbx = self.config.pbx
        if pbx.kind == "asterisk":
            return f"asterisk manager {pbx.asterisk.host}:{pbx.asterisk.port}"
        return f"direct {pbx.control_url or '(warnings only: no control_url)'}"

    def _phone_key(self, call_ref: str, agent_ext: str, key: Key) -> None:
        try:
            self.calls.press(call_ref, Hotkey(key, f"agent:{agent_ext}"))
        except KeyError:  # tapped at the PBX, and not yet, or no longer, a call of ours
            log.warning("a key found no call", agent=agent_ext, key=key.value)

    def _menus(self) -> MenuDesk | None:
        if not isinstance(self.control, AsteriskPbx):
            return None
        return MenuDesk(self.control.guests, self.parts.catalogue, menu_options(self.config))

    def _engine(self, agent_ext: str | None, queue: str | None) -> Engine:
        return Engine(self.parts.queues.get(queue or "", self.parts.pack), agent_ext=agent_ext)

    def _status(self) -> dict[str, Any]:
        """``/api/status``."""
        told: dict[str, Any] = {} if self.reloader is None else self.reloader.status.as_json()
        fault = told.get("config_error") or {}
        pack = self.parts.pack
        queues = {name: {"pack": own.version, "mode": own.mode.value} for name, own in self.parts.queues.items()}
        return {
            **told,
            "version": ivr.__version__,
            "ready": all(check.ok for check in self.checks()),
            "calls": len(self.calls),
            "pack": pack.version,
            "mode": pack.mode.value,
            "queues": queues,
            "lag_ms": self.asr.stats().lag_ms,
            "config_error": fault.get("error"),
            "config_error_at": fault.get("at"),
            "tokens_problem": self.access.problem,
        }

    def _registration(self, status: LineStatus) -> None:
        up = status.registration is RegistrationState.REGISTERED
        (self.registered.set if up else self.registered.clear)()
        self.metrics.registration(status.registration)
        (log.info if up else log.warning)("registration", state=status.registration.value, detail=status.detail)
