"""What is shipped to run Firmline elsewhere: each file checked by the tool that will read it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from ivr.demo.service import ServiceProcess
from tests.ivr.receiver import SECRET
from tests.ivr.service import free_tcp_port

on_the_loop = pytest.mark.asyncio(loop_scope="module")
DEPLOY = Path(__file__).parents[2] / "deploy"
MONITORING = DEPLOY / "monitoring"


def tool(name: str, package: str) -> str:
    """Path of a program that reads what we ship."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not here; apt-get install {package}")
    return found


def run(*args: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(a) for a in args], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class Live:
    """A service as systemd would start it, and what it told."""

    service: ServiceProcess
    told: socket.socket

    def next(self) -> dict[str, str]:
        """The next message of the service to systemd."""
        return dict(line.partition("=")[::2] for line in self.told.recv(4096).decode().splitlines())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    """One service for the module, with a notify socket of ours in systemd's place."""
    folder = tmp_path_factory.mktemp("live")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, pytest.MonkeyPatch.context() as patch:
        told.bind(str(folder / "notify"))
        told.settimeout(10)
        patch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        patch.setenv("WATCHDOG_USEC", "600000")
        hook = {"name": "crm", "url": f"http://127.0.0.1:{free_tcp_port()}/", "secret": SECRET}
        async with ServiceProcess(folder / "service", overrides={"webhooks": {"endpoints": [hook]}}) as service:
            yield Live(service, told)


# --- systemd ----------------------------------------------------------------------------------------------------------


@on_the_loop
async def test_service_tells_systemd_that_it_is_ready_alive_and_reloads_on_hup(live: Live) -> None:
    """READY first, then WATCHDOG from the loop again and again; SIGHUP as in ExecReload does not end it."""
    first = live.next()
    assert first["READY"] == "1" and "up" in first["STATUS"]
    seen = [live.next() for _ in range(5)]
    assert sum("WATCHDOG" in each for each in seen) >= 3
    assert any(each.get("STATUS", "").startswith("ready: sip:") for each in seen)
    os.kill(live.service.pid, 1)
    assert (await live.service.get("/healthz")).status_code == 200


def test_systemd_unit_is_accepted_and_well_confined(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, `security` an exposure under 2 of 10."""
    analyze = tool("systemd-analyze", "systemd")
    text = (DEPLOY / "systemd" / "firmline.service").read_text()
    unit = tmp_path / "firmline.service"
    unit.write_text(text.replace("/opt/firmline/.venv/bin/firmline", "/bin/true"))
    assert run(analyze, "verify", unit).strip() == ""
    assert "exposure level" in run(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit)
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=always", "Type=notify", "WatchdogSec=30"):
        assert line in text.splitlines()


# --- monitoring -------------------------------------------------------------------------------------------------------


def expressions() -> dict[str, str]:
    """Every query of the dashboard and of the rules, by title."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = {f"{p['title']} {t['refId']}": t["expr"] for p in board["panels"] for t in p["targets"]}
    found["variable"] = board["templating"]["list"][1]["definition"]
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    return found | {rule["alert"]: rule["expr"] for rule in rules}


@on_the_loop
async def test_every_metric_of_dashboard_and_rules_is_exported_by_the_service(live: Live) -> None:
    """Names and `what` labels, against the real page; the check can fail."""
    page = (await live.service.get("/metrics")).text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M))
    known = set(kinds) | {
        f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram" for part in ("bucket", "count")
    }
    for title, expr in expressions().items():
        names = set(re.findall(r"\bfirmline_[a-z_]+", expr))
        assert names and names <= known or expr.startswith("up{"), f"{title}: {names - known}"
        for name, what in re.findall(r'(firmline_[a-z_]+)\{[^}]*what="(\w+)"', expr):
            assert re.search(rf'^{name}\{{what="{what}"\}}', page, re.M), f"{title}: no {name} what={what}"
    assert "firmline_made_up_total" not in known
    assert 'firmline_webhooks_waiting{what="crm"} 0.0' in page


def test_prometheus_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    """promtool: syntax, the shipped tests of the rules, and every query of the dashboard."""
    promtool = tool("promtool", "prometheus")
    run(promtool, "check", "config", "prometheus.yml", cwd=MONITORING)
    run(promtool, "test", "rules", "alerts_test.yml", cwd=MONITORING)
    board = {k: v for k, v in expressions().items() if not v.startswith("label_values")}
    rules = [{"record": f"panel:{n}", "expr": e.replace("$instance", ".*")} for n, e in enumerate(board.values())]
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", tmp_path / "board.yml")


def test_dashboard_panels_have_room_and_ids_of_their_own() -> None:
    """No two panels overlap; every one has a title and a unit."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


# --- containers -------------------------------------------------------------------------------------------------------


def test_dockerfile_is_clean_and_copies_what_there_is() -> None:
    """hadolint finds nothing; every COPY source exists and is let through by .dockerignore; nobody runs as root."""
    path = DEPLOY / "docker" / "Dockerfile"
    run(tool("hadolint", "hadolint"), "--failure-threshold", "style", path)
    text, ignore = path.read_text(), (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for source in sources.split():
            assert (DEPLOY.parent / source).exists() and f"!{source}" in ignore, source
    assert re.search(r"^USER 10001", text, re.M) and "HEALTHCHECK" in text


def test_compose_file_mounts_what_there_is_and_keeps_the_service_small() -> None:
    """Every mounted file of ours exists; the service has the host's network and no privileges."""
    composed = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    service = composed["services"]["firmline"]
    assert service["network_mode"] == "host" and service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["ulimits"]["nofile"] >= 4096 and service["restart"] == "unless-stopped"
    for each in composed["services"].values():
        for mount in each["volumes"]:
            source = mount.partition(":")[0]
            if source.startswith("../monitoring"):
                assert (DEPLOY / "docker" / source).exists(), source
            elif not source.startswith("."):
                assert source in composed["volumes"], source
