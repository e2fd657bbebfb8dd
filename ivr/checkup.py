"""``firmline check``: everything that can be wrong before a call, tried for real and said in one line each."""

from __future__ import annotations

import asyncio
import socket

from ivr.api.base import Check
from ivr.api.parts import api_access, api_reach
from ivr.api.server import check_tls
from ivr.asr import AsrPool
from ivr.config import Config, resolve_secret
from ivr.ears import asr_options
from ivr.errors import FirmlineError
from ivr.lines.base import LineStatus, RegistrationState
from ivr.lines.pyvoip import PyvoipLine
from ivr.models import resolve_model
from ivr.parts import asterisk_options, load_prompts, load_rules, webhook_hooks
from ivr.pbx.check import as_line, examine

REGISTER_WAIT_S = 6.0
"""Long enough for a challenge and a few retransmissions (RFC 3261 timer E), short enough for a person."""


async def checkup(config: Config) -> list[Check]:
    """Try each part; nothing here leaves anything running."""
    return [
        _pack_and_prompts(config),
        await _model(config),
        _journal(config),
        _api_port(config),
        await _line(config),
        await _pbx(config),
        *_webhooks(config),
    ]


def _pack_and_prompts(config: Config) -> Check:
    try:
        pack, queues = load_rules(config)
        catalogue = load_prompts(config, pack, *queues.values())
    except FirmlineError as exc:
        return Check("policy", False, str(exc))
    where = config.prompts.directory or "shipped"
    reads = "meaning read" if pack.meaning else "words and rules alone: the sentence model is off or not installed"
    own = "".join(f"; queue {name}: {each.version}, mode {each.mode}" for name, each in queues.items())
    told = f"pack {pack.version}, mode {pack.mode}, {reads}, {len(catalogue)} prompts ({where}){own}"
    return Check("policy", True, told)


async def _model(config: Config) -> Check:
    ears = config.ears
    try:
        model = resolve_model(ears.model, offline=ears.offline)
        pool = AsrPool(model, 1, ears.threads, options=asr_options(config))
        try:
            await pool.start()
            about = ", ".join(f"{k} {v}" for k, v in pool.about.items() if v)
        finally:
            await pool.stop()
    except FirmlineError as exc:
        return Check("ears", False, str(exc))
    return Check("ears", True, f"{model.name} from {model.source} ({model.path}); {about}")


def _journal(config: Config) -> Check:
    from pathlib import Path

    path = Path(config.journal.path).absolute()
    if path.is_dir() or not path.parent.is_dir():
        return Check("journal", False, f"journal.path {path}: not a file in a folder that exists")
    try:
        with open(path, "ab"):
            pass
    except OSError as exc:
        return Check("journal", False, f"journal.path {path}: cannot be written: {exc.strerror}")
    if path.stat().st_size == 0:
        path.unlink()
    return Check("journal", True, f"{path}, kept {config.journal.retention_days or 'for ever'} days")


def _api_port(config: Config) -> Check:
    host, port = config.api.host, config.api.port
    try:
        access, reach = api_access(config), api_reach(config)
        check_tls(reach)
    except FirmlineError as exc:
        return Check("api", False, str(exc))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            fix = "is Firmline already running? else choose another api.port"
            return Check("api", False, f"http://{host}:{port} cannot be used: {exc.strerror} ({fix})")
    scheme = "https" if reach.tls_cert else "http"
    who = "whoever is on this machine" if access.open else f"tokens of {config.api.tokens}"
    return Check("api", True, f"{scheme}://{host}:{port}, open to {who}")


class _Watch:
    """Line events of a check: refuses calls, waits for the registrar's word."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()

    def on_registration(self, status: LineStatus) -> None:
        if status.registration in (RegistrationState.REGISTERED, RegistrationState.FAILED):
            self.settled.set()

    def on_leg_offered(self, leg: object) -> None:
        leg.reject(503, "only checking")  # type: ignore[attr-defined]

    def on_leg_up(self, leg: object) -> None: ...

    def on_frames(self, leg: object, frames: object) -> None: ...

    def on_dtmf(self, leg: object, digit: str, t_ms: int) -> None: ...

    def on_leg_down(self, leg: object, reason: str) -> None: ...


async def _line(config: Config) -> Check:
    watch = _Watch()
    try:
        line = PyvoipLine(config.line.options())
        await line.start(watch)
    except FirmlineError as exc:
        return Check("line", False, str(exc))
    try:
        await asyncio.wait_for(watch.settled.wait(), REGISTER_WAIT_S)
        status = line.status()
        return Check("line", status.registration is RegistrationState.REGISTERED, status.detail)
    except TimeoutError:
        server = f"{config.line.server}:{config.line.server_port}"
        return Check("line", False, f"{server} does not answer REGISTER: check line.server and the firewall (UDP)")
    finally:
        await line.stop()


async def _asterisk(config: Config) -> Check:
    targets = (config.pbx.transfer_to, *config.pbx.asterisk.fallbacks)
    try:
        return Check("pbx", *as_line(await examine(asterisk_options(config), targets), targets))
    except FirmlineError as exc:
        return Check("pbx", False, str(exc))


async def _pbx(config: Config) -> Check:
    if config.pbx.kind == "asterisk":
        return await _asterisk(config)
    try:
        secret = resolve_secret(config.pbx.control_secret, "pbx.control_secret")
    except FirmlineError as exc:
        return Check("pbx", False, str(exc))
    if not config.pbx.control_url:
        return Check("pbx", True, "no control_url: callers are warned, but no call can be transferred or ended")
    signed = "signed" if secret else "unsigned"
    return Check("pbx", True, f"{config.pbx.control_url} ({signed}); transfers go to {config.pbx.transfer_to}")


def _webhooks(config: Config) -> list[Check]:
    """One line when there are any; nothing is sent: that is `firmline webhooks test`."""
    if not config.webhooks.endpoints:
        return []
    try:
        hooks = webhook_hooks(config)
    except FirmlineError as exc:
        return [Check("webhooks", False, str(exc))]
    told = "; ".join(f"{hook.name}: {', '.join(sorted(hook.events))}" for hook in hooks)
    clear = [hook.name for hook in hooks if hook.url.startswith("http://")]
    note = f" (not encrypted: {', '.join(clear)}; use https:// beyond this machine)" if clear else ""
    return [Check("webhooks", True, f"{told}{note}; try them with `firmline webhooks test`")]
