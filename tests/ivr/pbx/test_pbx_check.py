"""`firmline pbx-check` on a real Asterisk: each thing that can be wrong is so once, and the cure is in the answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ivr import pbx_command  # noqa: F401  registers itself
from ivr.cli import cli
from ivr.config import load_config
from ivr.doctor import pbx as doctor_of_pbx
from ivr.doctor_finding import Finding, Level
from ivr.errors import ConfigError
from ivr.pbx.check import as_line, examine
from ivr.pbx.phone_keys import PhoneKey, PhoneKeyOptions
from tests.ivr.pbx.beside import Beside, World, ami_options
from tests.ivr.pbx.pbx_server import AMI_SECRET, AMI_USER

pytestmark = pytest.mark.sip


async def asked(world: World, *targets: str, **changes: Any) -> list[Finding]:
    """What the check finds under these options."""
    return await examine(Beside(world, **changes).options, targets or ("299",))


def wrong(findings: list[Finding]) -> dict[str, Finding]:
    """Faults by name."""
    return {each.name: each for each in findings if each.level is Level.FAULT}


async def test_check_of_a_pbx_that_is_ready_finds_no_fault_and_says_what_is_used(world: World) -> None:
    """Version, rights, phone, codec, modules, extensions, agents, keys, queues: each is told."""
    async with Beside(world):  # and gone again: no registration of a killed process is left to be taken for ours
        pass
    async with asyncio.timeout(5):  # the PBX tells of a phone that is gone in its own time
        while "Unavailable" not in await asyncio.to_thread(world.server.cli, "pjsip show endpoint firmline"):
            await world.stack.clock.pause(50)
    findings = await asked(world, "299", "600")
    assert wrong(findings) == {}
    told = {each.name: each.what for each in findings}
    names = {"login", "version", "rights", "events", "modules", "phone", "codec", "transfer", "agent", "keys", "queues"}
    assert set(told) == names
    assert told["version"].startswith("Asterisk ") and told["codec"] == "ulaw, alaw" and "201" in told["queues"]
    assert told["keys"] == "*91 warns, hidden from callers, on phones with DYNAMIC_FEATURES"
    well, line = as_line(findings, ("299", "600"))
    assert well and "transfers go to 299, 600" in line and "firmline is not registered now" in line


async def test_check_says_for_each_fault_what_to_paste_where(world: World) -> None:
    """A wrong phone, a wrong agent, an extension that is missing, keys that cannot be heard: all in one run."""
    keys = PhoneKeyOptions({"*9": PhoneKey.WARN})
    findings = await asked(world, "298x", tap_endpoint="careless", agents=("201", "77"), keys=keys)
    faults = wrong(findings)
    assert set(faults) == {"codec", "media", "transfer", "agent"}
    assert "allow=ulaw,alaw" in faults["codec"].next_step and "direct_media=no" in faults["media"].next_step
    assert "[internal]\n  exten => 298x,1,Dial(" in faults["transfer"].next_step
    assert "there is no PJSIP endpoint 77" in faults["agent"].what
    looked = {each.name: each.next_step for each in findings if each.level is Level.WARN}
    assert "remove_existing=yes" in looked["contact"]
    well, line = as_line(findings, ("298x",))
    assert not well and "extension 298x does not exist in context internal" in line and "pbx-check" in line
    missing = wrong(await asked(world, tap_endpoint="nobody"))
    assert (
        "there is no PJSIP endpoint nobody" in missing["phone"].what
        and "pjsip_firmline.conf" in missing["phone"].next_step
    )


async def test_check_names_the_right_that_is_missing_and_goes_no_further(world: World) -> None:
    """No login, no rights, no events: each with the lines of manager.conf."""
    no_login = wrong(await asked(world, ami=ami_options(world.server, secret="wrong")))
    assert "refused user firmline" in no_login["login"].what
    assert "manager_firmline.conf" in no_login["login"].next_step and "permit=" in no_login["login"].next_step
    blind = wrong(await asked(world, ami=ami_options(world.server, username="blind")))
    assert (
        "add call,originate to its write=" in blind["rights"].what and "[blind]:\n  read=" in blind["rights"].next_step
    )
    deaf = wrong(await asked(world, ami=ami_options(world.server, username="deaf", timeout_ms=500)))
    assert "add call to its read=" in deaf["events"].what and set(deaf) == {"events"}


async def test_check_finds_the_module_that_is_not_loaded_and_the_version_that_is_not_told(world: World) -> None:
    """Without ChanSpy there is no tap; without func_version nobody knows the version, which is no fault."""
    for name in ("app_chanspy.so", "func_version.so"):
        world.server.cli(f"module unload {name}")
    try:
        findings = await asked(world)
    finally:
        for name in ("app_chanspy.so", "func_version.so"):
            world.server.cli(f"module load {name}")
    assert "app_chanspy.so (the taps)" in wrong(findings)["modules"].what
    assert "load=app_chanspy.so" in wrong(findings)["modules"].next_step
    version = next(each for each in findings if each.name == "version")
    assert version.level is Level.WARN and "Asterisk of unknown version (manager protocol" in version.what


async def test_pbx_check_command_ends_1_on_a_fault_and_speaks_json(world: World, tmp_path: Path) -> None:
    """Lines for people by default, one object a finding on request; nothing to ask where pbx.kind is direct."""
    asterisk = {"port": world.server.ami_port, "username": AMI_USER, "secret": AMI_SECRET, "agents": ["201"]}
    pbx = {"kind": "asterisk", "transfer_to": "298x", "asterisk": {**asterisk, "context": "internal"}}
    good, direct = tmp_path / "asterisk.yaml", tmp_path / "direct.yaml"
    good.write_text(yaml.safe_dump({"pbx": pbx}))
    direct.write_text("pbx: {kind: direct}\n")

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["pbx-check", *words])

    people, lines, none = [await run(*w) for w in (("-c", str(good)), ("-c", str(good), "--json"), ("-c", str(direct)))]
    assert people.exit_code == lines.exit_code == 1 and "1 faults" in people.stdout
    assert "FAULT transfer" in people.stdout and "exten => 298x,1,Dial(PJSIP/298x,30)" in people.stdout
    doctored = {each.name.removeprefix("pbx "): each for each in await doctor_of_pbx(load_config(good))}
    assert doctored["transfer"].what in people.stdout and doctored["transfer"].level is Level.FAULT
    found = {each["name"]: each["level"] for each in map(json.loads, lines.stdout.splitlines())}
    assert set(doctored) == set(found), "the doctor asks all that pbx-check asks"
    assert found["transfer"] == "fault" and found["login"] == "ok"
    assert isinstance(none.exception, ConfigError) and "pbx.kind" in str(none.exception)
