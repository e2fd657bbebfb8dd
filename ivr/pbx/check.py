"""Everything at an Asterisk that can be wrong before a call, asked with the rights that Firmline has anyway.

Each answer is a finding; what is not well comes with the lines to paste, and where. Dialplan functions are read by
``Getvar``: a function that is not loaded reads as empty, so an empty answer is never taken for a fault by itself.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import Iterator

from ivr.doctor_finding import Finding, Level, fault, ok
from ivr.errors import PbxError
from ivr.pbx.ami import AmiClient
from ivr.pbx.inquiry import (
    AsteriskOptions,
    EventProbe,
    extension_exists,
    lacking,
    logged_in,
    missing_rights,
    read,
    unreachable,
)
from ivr.pbx.lease import beat_variable
from ivr.pbx.twins import FRESH_MS, Beat, two_alive
from ivr.waiting import within

TESTED_MAJORS = (16, 22)
"""Every test of the attachment passes on these; between them nothing we use has changed."""
MODULES = {
    "app_chanspy.so": "the taps",
    "res_pjsip_header_funcs.so": "the headers of the taps",
    "func_devstate.so": "asking whether a phone is there",
    "func_dialplan.so": "asking whether an extension exists",
}
WAKING = "app_bridgeaddchan.so"
_PLAIN = re.compile(r"[0-9A-Za-z_.+-]+")
_RELOAD = 'then: asterisk -rx "{}"'


async def examine(options: AsteriskOptions, targets: tuple[str, ...]) -> list[Finding]:
    """All findings; the first fault of login or rights ends it, since nothing else could be asked.

    Touches no call and no tap.
    """
    probe = EventProbe()
    found: list[Finding] = []
    try:
        async with logged_in(options, probe.hear) as ami:
            how = "over TLS" if options.ami.tls is not None else "not encrypted"
            found.append(ok("login", f"as {options.ami.username} at {options.ami.host}:{options.ami.port}, {how}"))
            found.append(await version(ami))
            rights = await _rights(ami, options, probe)
            found += rights
            if any(each.level is Level.FAULT for each in rights):
                return found
            found += await _modules(ami)
            found += await _phone(ami, options)
            found += await _twins(ami, options)
            found += await _extensions(ami, options, targets)
            found += await _agents(ami, options)
            found += await _keys(ami, options)
            found += await _queues(ami, options)
    except PbxError as exc:
        found.append(fault("login" if not found else "manager", str(exc), manager_step(str(exc), options)))
    return found


def as_line(findings: list[Finding], targets: tuple[str, ...]) -> tuple[bool, str]:
    """The same in one line, for ``firmline check``: whether all is well, and what matters."""
    faults = [each for each in findings if each.level is Level.FAULT]
    if faults:
        return False, "; ".join(each.what for each in faults) + " (`firmline pbx-check` says what to paste where)"
    told = {each.name: each.what for each in findings}
    notes = [each.what for each in findings if each.level is Level.WARN]
    but = f"; but {'; '.join(notes)}" if notes else ""
    return True, f"{told['version']}, logged in {told['login']}; transfers go to {', '.join(targets)}{but}"


def manager_step(error: str, options: AsteriskOptions) -> str:
    """What to do about a login that failed with ``error``."""
    where = f"{options.ami.host}:{options.ami.port}"
    if "refused user" in error:
        return (
            "paste deploy/asterisk/manager_firmline.conf into /etc/asterisk/manager.conf (FreePBX: "
            f"manager_custom.conf), its [name] {options.ami.username}, secret= as pbx.asterisk.secret; where it is "
            "there already, let permit= hold our address (deny=0.0.0.0/0.0.0.0, permit=OUR.ADDRESS/255.255.255.255); "
            + _RELOAD.format("manager reload")
        )
    if "TLS" in error or "certificate" in error:
        return "pbx.asterisk.tls: enabled, ca_file, server_name; [general] of manager.conf: tlsenable=yes, tlsbindaddr="
    if "no Asterisk manager" in error:
        return f"something else answers at {where}: the manager's port is 5038 unless manager.conf says otherwise"
    if "refused" in error.lower():
        return (
            f"nothing listens at {where}: [general] enabled=yes and bindaddr= (0.0.0.0 or the address we dial) in "
            "manager.conf, then `core restart when convenient`; `manager show settings` tells what holds"
        )
    return f"no way to {where}: check pbx.asterisk.host and the firewalls (TCP); on the PBX: `ss -ltnp sport = :5038`"


async def version(ami: AmiClient) -> Finding:
    """Which Asterisk it is, and whether Firmline was tested with it.

    Raises:
        PbxError: the PBX did not answer.
    """
    told = await read(ami, "VERSION()")
    match = re.match(r"(\d+)\.[\d.]+", told)
    if match is None:
        what = f"Asterisk of unknown version (manager protocol {ami.version})"
        return Finding(Level.WARN, "version", what, "load func_version.so to have it told; tested are 16.28 and 22")
    if int(match[1]) in TESTED_MAJORS:
        return ok("version", f"Asterisk {match[0]} (manager protocol {ami.version})")
    what = f"Asterisk {match[0]} (manager protocol {ami.version}), a version that Firmline was not tested with"
    return Finding(
        Level.WARN, "version", what, "tested are 16.28 and 22; make a test call with each kind of ending first"
    )


async def _rights(ami: AmiClient, options: AsteriskOptions, probe: EventProbe) -> list[Finding]:
    user = options.ami.username
    missing, can_pause = await missing_rights(ami)
    paste = f"manager.conf, [{user}]:\n  read=call,user,dtmf\n  write=call,originate,agent\n"
    paste += _RELOAD.format("manager reload")
    if missing:
        return [fault("rights", lacking(user, missing), paste)]
    try:
        await probe.ask(ami, options.ami)
    except PbxError as exc:
        return [fault("events", str(exc), paste)]
    found = [ok("rights", f"{user} may tap, move, hang up and ask"), ok("events", "of calls reach us")]
    if not can_pause:
        what = "agents cannot be paused (add agent to write= of the manager user if they should be)"
        found.append(Finding(Level.WARN, "pause", what, paste))
    classes = await read(ami, f"AST_CONFIG(manager.conf,{user},read)")
    wanted = {"dtmf": bool(options.keys.digits or options.keys.agents)}
    unheard = [
        name for name, needed in wanted.items() if needed and name not in _words(classes) and "all" not in classes
    ]
    if classes and unheard:
        what = (
            f"read= of {user} lacks {','.join(unheard)}: keys on the agents' phones (pbx.asterisk.keys) are not heard"
        )
        found.append(fault("events", what, paste))
    return found


async def _modules(ami: AmiClient) -> list[Finding]:
    if await read(ami, "IFMODULE(func_module.so)") != "1":
        what = "which modules are loaded cannot be asked (func_module.so is not loaded)"
        step = "look yourself: " + "; ".join(f'asterisk -rx "module show like {name}"' for name in MODULES)
        return [Finding(Level.WARN, "modules", what, step)]
    missing = [name for name in MODULES if await read(ami, f"IFMODULE({name})") != "1"]
    if not missing and await read(ami, f"IFMODULE({WAKING})") != "1":
        what = f"{WAKING} is not loaded: prompts are not heard while the agent's phone sends nothing (muted)"
        return [Finding(Level.WARN, "modules", what, f'now: asterisk -rx "module load {WAKING}"')]
    if not missing:
        return [ok("modules", "ChanSpy and whatever else is used are loaded")]
    what = "not loaded: " + ", ".join(f"{name} ({MODULES[name]})" for name in missing)
    lines = "\n".join(f"  load={name}" for name in missing)
    now = "; ".join(f'asterisk -rx "module load {name}"' for name in missing)
    return [fault("modules", what, f"now: {now}\nfor ever, if modules.conf has autoload=no:\n{lines}")]


async def _phone(ami: AmiClient, options: AsteriskOptions) -> list[Finding]:
    name = options.tap_endpoint
    state = await read(ami, f"DEVICE_STATE(PJSIP/{name})")
    paste = (
        "paste deploy/asterisk/pjsip_firmline.conf into /etc/asterisk/pjsip.conf (FreePBX: a PJSIP extension), with "
    )
    paste += "the password that line.password has; " + _RELOAD.format("pjsip reload")
    if state == "INVALID":
        return [fault("phone", f"there is no PJSIP endpoint {name}, Firmline's own phone", paste)]
    found = [ok("phone", f"endpoint {name} is there ({state.lower().replace('_', ' ') or 'state not told'})")]
    if state == "UNAVAILABLE":
        what = f"{name} is not registered now"
        found[0] = Finding(Level.WARN, "phone", what, "right while `firmline run` is not running; else see line.server")
    allow = await read(ami, f"PJSIP_ENDPOINT({name},allow)")
    if allow and not {"ulaw", "alaw"} & _words(allow):
        found.append(fault("codec", f"{name} allows {allow}, Firmline speaks G.711", f"[{name}]:\n  allow=ulaw,alaw"))
    elif allow:
        found.append(ok("codec", allow.strip("()").replace("|", ", ")))
    if await read(ami, f"PJSIP_ENDPOINT({name},direct_media)") == "true":
        what = f"{name} has direct_media=yes: prompts would pass by the PBX that mixes them"
        found.append(fault("media", what, f"[{name}] type=endpoint:\n  direct_media=no"))
    contacts, remove = (
        await read(ami, f"PJSIP_AOR({name},max_contacts)"),
        await read(ami, f"PJSIP_AOR({name},remove_existing)"),
    )
    if contacts and (contacts != "1" or remove != "true"):
        what = f"{name} has max_contacts={contacts}, remove_existing={remove}: after a crash the old one is rung too"
        found.append(
            Finding(Level.WARN, "contact", what, f"[{name}] type=aor:\n  max_contacts=1\n  remove_existing=yes")
        )
    return found


async def _twins(ami: AmiClient, options: AsteriskOptions) -> list[Finding]:
    """Two that run under one endpoint see each other, and say so in the beat that they share."""
    variable = beat_variable(options.tap_endpoint)
    first = Beat.from_text(await read(ami, variable))
    if first is None or not first.twin:
        return []
    await within(asyncio.Event(), FRESH_MS)  # else it may be what two dead ones left
    if not two_alive(first, Beat.from_text(await read(ami, variable))):
        return []
    what = f"two Firmlines are logged in with the same line.username {options.tap_endpoint}: one of them stands by"
    step = "give each an endpoint of its own (a second copy of deploy/asterisk/pjsip_firmline.conf), or stop one"
    return [Finding(Level.WARN, "twins", what, step)]


async def _extensions(ami: AmiClient, options: AsteriskOptions, targets: tuple[str, ...]) -> list[Finding]:
    found: list[Finding] = []
    for target in targets:
        refusal = await unreachable(ami, options.context, target)
        if refusal is None:
            found.append(ok("transfer", f"{target} can be reached in {options.context}"))
        elif "does not exist" in refusal:
            step = f"correct pbx.transfer_to, fallbacks or context; or in extensions.conf:\n  [{options.context}]\n"
            step += f"  exten => {target},1,Dial(PJSIP/{target},30)\n" + _RELOAD.format("dialplan reload")
            found.append(fault("transfer", refusal, step))
        else:
            found.append(Finding(Level.WARN, "transfer", refusal, "callers go to the next of pbx.asterisk.fallbacks"))
    return found


async def _agents(ami: AmiClient, options: AsteriskOptions) -> list[Finding]:
    """Those named one by one; a pattern cannot be asked about."""
    found: list[Finding] = []
    for name in _named(options):
        if await read(ami, f"DEVICE_STATE(PJSIP/{name})") == "INVALID":
            step = 'pbx.asterisk.agents holds names of PJSIP endpoints; asterisk -rx "pjsip show endpoints" lists them'
            found.append(fault("agent", f"there is no PJSIP endpoint {name}", step))
        elif not await extension_exists(ami, options.context, name):
            what = (
                f"agent {name} is no extension of {options.context}: nobody can be sent back to them, nor to the menu"
            )
            found.append(
                Finding(Level.WARN, "agent", what, f"[{options.context}]\n  exten => {name},1,Dial(PJSIP/{name},30)")
            )
        else:
            found.append(ok("agent", f"{name} is there, and an extension of {options.context}"))
    return found


def _named(options: AsteriskOptions) -> Iterator[str]:
    return (pattern for pattern in options.agents if _PLAIN.fullmatch(pattern))


async def _keys(ami: AmiClient, options: AsteriskOptions) -> list[Finding]:
    """``[applicationmap]`` of features.conf, and on whose phones it is."""
    told = await read(ami, "AST_CONFIG(features.conf,applicationmap,firmline_warn)")
    paste = "paste deploy/asterisk/features_firmline.conf into features.conf; " + _RELOAD.format(
        "module reload features"
    )
    if not told:  # none are used, or func_config.so is not loaded to read the file
        return []
    digits = told.split(",")[0]
    if "userevent(firmline" not in told.lower().replace(" ", ""):
        return [fault("keys", f"firmline_warn is {told}: it must send UserEvent(Firmline,Key: warn)", paste)]
    without = [
        name
        for name in _named(options)
        if (own := await read(ami, f"AST_CONFIG(pjsip.conf,{name},set_var)")) and "firmline_" not in own
    ]
    found = [ok("keys", f"{digits} warns, hidden from callers, on phones with DYNAMIC_FEATURES")]
    if without:
        step = "[endpoint] of each:\n  set_var=DYNAMIC_FEATURES=firmline_warn#firmline_pardon#firmline_end"
        found.append(Finding(Level.WARN, "keys", f"not on the phones of {', '.join(without)}", step))
    return found


async def _queues(ami: AmiClient, options: AsteriskOptions) -> list[Finding]:
    try:
        rows = [row for row in await ami.event_list("QueueStatus") if row.event == "QueueMember"]
    except PbxError:  # no app_queue, or not allowed: said under `pause` where it matters
        return []
    devices = {row.get(key).removeprefix("PJSIP/") for row in rows for key in ("StateInterface", "Location")}
    guarded = sorted(name for name in devices if any(fnmatch.fnmatchcase(name, each) for each in options.agents))
    if not guarded:
        what = "no guarded agent is a member of a queue now: there is no minute after a hard call to give"
        return [
            Finding(Level.WARN, "queues", what, "none needed where agents are rung without queues, or log in later")
        ]
    return [ok("queues", f"members now: {', '.join(guarded)}")]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))
