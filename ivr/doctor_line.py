"""``firmline doctor`` on ports, the registrar, addresses and a call to ourselves, in plain words."""

from __future__ import annotations

import contextlib
import email.utils
import socket
from collections.abc import Iterator

import httpx

from ivr import clock
from ivr.config import Config
from ivr.doctor_finding import Finding, Level, fault, ok
from ivr.doctor_sip import PACKETS, RegistrarAnswer, address_towards, ask_registrar, call_ourselves, is_private
from ivr.errors import FirmlineError
from ivr.lines.base import LineOptions

CLOCK_OFF_S = 30


# --- ports ------------------------------------------------------------------------------------------------------------


async def ports(config: Config) -> list[Finding]:
    """Whether our ports are free, or held by a Firmline that runs."""
    found = []
    running = await _running(config)
    if running:
        found.append(ok("service", f"a Firmline {running} answers at {config.api.host}:{config.api.port}"))
    for name, kind, ip, port in (
        ("api port", socket.SOCK_STREAM, config.api.host, config.api.port),
        ("sip port", socket.SOCK_DGRAM, config.line.local_ip, config.line.local_port),
    ):
        problem = _bind_problem(kind, ip, port)
        letter = "t" if kind is socket.SOCK_STREAM else "u"
        if not problem:
            found.append(ok(name, f"{ip}:{port} is free"))
        elif running and "in use" in problem:
            found.append(ok(name, f"{ip}:{port} is held by the Firmline that runs"))
        else:
            key = "api.port" if kind is socket.SOCK_STREAM else "line.local_port or line.local_ip"
            step = f"`ss -l{letter}np sport = :{port}` names who has it: stop that, or set {key} to something else"
            found.append(Finding(Level.FAULT, name, f"{ip}:{port} cannot be used: {problem}", step))
    return found


def _bind_problem(kind: socket.SocketKind, ip: str, port: int) -> str:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as exc:
            return exc.strerror or str(exc)
    return ""


async def _running(config: Config) -> str:
    """The version of the Firmline behind ``api``, or ``""``."""
    scheme = "https" if config.api.tls_cert else "http"
    host = "127.0.0.1" if config.api.host == "0.0.0.0" else config.api.host
    # The answer is only told to whoever asks here, and the certificate is looked at under `tls`.
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=1.0) as client:
        try:
            answer = (await client.get(f"{scheme}://{host}:{config.api.port}/healthz")).json()
            return str(answer["version"]) if answer["alive"] else ""
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ""


# --- SIP and RTP ------------------------------------------------------------------------------------------------------


async def line(config: Config) -> list[Finding]:
    """Address, registrar, and a call to ourselves."""
    try:
        options = config.line.options()
    except FirmlineError as exc:
        return [Finding(Level.FAULT, "line", str(exc), "set the variable or mend the file (systemd: EnvironmentFile=)")]
    found = list(_addresses(options))
    if options.server:
        found.append(registrar_finding(options, answer := await ask_registrar(options)))
        found += list(_seen(options, answer))
    else:
        found.append(ok("registrar", "none: the PBX dials us (line.server is empty)"))
    call = await call_ourselves(options)
    firewall = f"ufw allow {options.local_port}/udp; ufw allow {options.rtp_port_low}:{options.rtp_port_high}/udp"
    if call.problem:
        step = "line.local_ip must be an address of this machine (`ip -4 addr`), with the RTP ports free"
        found.append(Finding(Level.FAULT, "self-call", call.problem, step))
    elif min(call.heard, call.spoken) < PACKETS // 2:
        what = f"of {PACKETS} packets {call.heard} were heard and {call.spoken} came back: something here drops RTP"
        found.append(Finding(Level.FAULT, "self-call", what, f"let this machine's firewall pass it, e.g. {firewall}"))
    else:
        found.append(ok("self-call", "SIP and audio both ways on our own address and ports"))
    return found


def _addresses(options: LineOptions) -> Iterator[Finding]:
    """One-way audio has its cause here more often than anywhere else."""
    ours = options.local_ip
    peer = options.server or next((p.partition("/")[0] for p in options.trusted_peers if not p.startswith("127.")), "")
    if not peer:
        return
    route = address_towards(peer, options.server_port)
    if ours.startswith("127.") and not route.startswith("127."):
        yield Finding(
            Level.FAULT,
            "line",
            f"line.local_ip is {ours}: the PBX at {peer} would send its audio to itself (no sound at all)",
            f"set line.local_ip to this machine's address towards the PBX, it seems {route or 'unknown'}",
        )
    elif ours != "0.0.0.0" and route and route != ours:
        yield Finding(
            Level.WARN,
            "line",
            f"line.local_ip is {ours}, but packets to {peer} leave from {route}",
            f"if only one side is heard, set line.local_ip to {route}",
        )
    elif is_private(ours) and not is_private(peer) and peer[:1].isdigit():
        yield Finding(
            Level.WARN,
            "line",
            f"{ours} is a private address and the PBX {peer} a public one: behind NAT its audio will not find us",
            "put Firmline into the PBX's network or a VPN to it; NAT is not supported, and should not carry calls",
        )


def registrar_finding(options: LineOptions, answer: RegistrarAnswer) -> Finding:
    """The registrar's answer in plain words."""
    where, user = f"{options.server}:{options.server_port}", options.auth_user or options.username
    if answer.problem:
        return fault("registrar", answer.problem, "check line.server and line.local_ip")
    if answer.refused:
        return fault(
            "registrar",
            f"nothing listens on UDP port {options.server_port} at {options.server}",
            "is that the PBX's SIP port? Asterisk: `pjsip show transports`; FreePBX: Settings > Asterisk SIP Settings; "
            "the transport must be UDP",
        )
    if not answer.status:
        return fault(
            "registrar",
            f"{where} does not answer" + (" once a password was sent" if answer.asked_for_password else ""),
            "a firewall drops UDP, or the PBX has banned us after wrong passwords (`fail2ban-client status asterisk` "
            "there), or the address is another machine's: `sngrep` on the PBX shows whether our REGISTER arrives",
        )
    if answer.status in (401, 407):
        return fault(
            "registrar",
            f"{where} refused the password of {user} ({answer.status})",
            "line.password must be that of the PBX's extension, line.auth_user its user name where that differs; "
            "Asterisk: `pjsip show auth`",
        )
    if answer.status == 403:
        return fault(
            "registrar",
            f"{where} forbids {options.username} to register (403)",
            "a wrong password looks like this on some PBXs; else the extension's ACL (permit=) lacks our address",
        )
    if answer.status == 404:
        step = "create the extension, or set line.username to the one that exists"
        return fault("registrar", f"{where} does not know {options.username} (404)", step)
    if not 200 <= answer.status < 300:
        return fault("registrar", f"{where} answered {answer.status}", "the PBX's log says why")
    told = "" if answer.asked_for_password else ", without asking for a password"
    return ok("registrar", f"{where} knows {options.username}{told}")


def _seen(options: LineOptions, answer: RegistrarAnswer) -> Iterator[Finding]:
    if answer.seen and answer.seen != answer.ours:
        yield fault(
            "nat",
            f"the PBX sees us at {answer.seen}, we say {answer.ours}: its audio goes to an address that is not ours",
            "something translates addresses between us and the PBX: put both into one network, or mend line.local_ip",
        )
    with contextlib.suppress(TypeError, ValueError, IndexError):
        off_s = abs(clock.wall_s() - email.utils.parsedate_to_datetime(answer.date).timestamp()) if answer.date else 0
        if off_s > CLOCK_OFF_S:
            what = f"this clock and the PBX's are {off_s:.0f} s apart"
            yield Finding(
                Level.WARN, "clock", what, "synchronise both (NTP): else journals cannot be laid side by side"
            )
