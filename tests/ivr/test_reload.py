"""Settings that change under a running service: noticed however they are saved, checked whole, refused with a line."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from ivr.call import CallCore, CallOptions
from ivr.config import Config, load_config, parse_config
from ivr.effects import Journal
from ivr.judge import load_pack
from ivr.metrics import Metrics
from ivr.reload import Applied, ConfigSource, Loaded, Reloader, in_force, load_whole
from policies.engine import Engine
from policies.pack import Mode
from policies.types import Hotkey, Key, PromptDone, Side, Utterance
from tests.ivr.receiver import SECRET, Receiver
from tests.ivr.service import LiveCall, Site, eventually

PACK = "name: mine\nextends: standard\nmeaning: {enabled: false}\ntiming: {grace_ms: %d}\n"


class Watched:
    """A folder with settings and a pack, watched; ``taken`` are the grace times that reached the service."""

    def __init__(self, folder: Path, reloader: Reloader, metrics: Metrics, taken: list[int]) -> None:
        self.folder, self.reloader, self.metrics, self.taken = folder, reloader, metrics, taken

    async def takes(self, grace_ms: int) -> None:
        """Until settings with this pack are in force."""
        await eventually(lambda: _true(lambda: bool(self.taken) and self.taken[-1] == grace_ms))
        assert self.reloader.status.error is None

    async def refuses(self, said: str) -> None:
        """Until the settings on disk are refused with these words."""
        await eventually(lambda: _true(lambda: said in getattr(self.reloader.status.error, "error", "")))


async def _true(check: Callable[[], bool]) -> bool:
    return check()


@asynccontextmanager
async def watching(folder: Path, config: str = "policy: {pack: %s}\n") -> AsyncIterator[Watched]:
    pack = folder / "mine.yaml"
    if not pack.exists():
        pack.write_text(PACK % 4_000)
    path = folder / "config.yaml"
    if not path.exists():
        path.write_text(config % pack)
    taken: list[int] = []

    def apply(loaded: Loaded) -> Applied:
        taken.append(loaded.pack.spec.timing.grace_ms)
        return Applied()

    source = ConfigSource(path, lambda: load_config(path))
    loaded, metrics = load_whole(source, set()), Metrics("0")
    reloader = Reloader(source, loaded, apply, metrics, look_ms=20)
    reloader.start()
    try:
        yield Watched(folder, reloader, metrics, taken)
    finally:
        await reloader.stop()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.swp")
    aside.write_text(text)
    os.replace(aside, path)


def away_and_back(path: Path, text: str) -> None:
    path.rename(path.with_name(path.name + "~"))
    path.write_text(text)


@pytest.mark.parametrize("save", [in_place, by_rename, away_and_back], ids=lambda f: f.__name__)
async def test_reload_changed_pack_is_taken_however_an_editor_saves_it(
    save: Callable[[Path, str], None], tmp_path: Path
) -> None:
    """Written in place, renamed over, moved away and written anew: taken, once, and the error of a bad one names it."""
    async with watching(tmp_path) as watched:
        save(tmp_path / "mine.yaml", PACK % 5_000)
        await watched.takes(5_000)
        save(tmp_path / "mine.yaml", PACK % -1)
        await watched.refuses(f"{tmp_path}/mine.yaml:4: timing.grace_ms: ")
        save(tmp_path / "mine.yaml", PACK % 6_000)
        await watched.takes(6_000)
    assert watched.taken == [5_000, 6_000]
    page = watched.metrics.render().decode()
    assert 'firmline_config_reloads_total{result="refused"} 1.0' in page and "firmline_config_reload_failed 0.0" in page


async def test_reload_half_written_and_vanished_files_change_nothing(tmp_path: Path) -> None:
    """A file cut off in the middle is refused with its line, one that is gone is named; whole again it is taken."""
    async with watching(tmp_path) as watched:
        (tmp_path / "mine.yaml").write_text((PACK % 5_000)[:-12])
        await watched.refuses("mine.yaml:")
        (tmp_path / "mine.yaml").unlink()
        await watched.refuses("No such file")
        (tmp_path / "config.yaml").unlink()
        await watched.refuses("config.yaml: no such file")
        (tmp_path / "mine.yaml").write_text(PACK % 6_000)
        (tmp_path / "config.yaml").touch()
        await watched.refuses("config.yaml: holds no setting")
        assert watched.taken == []
        (tmp_path / "config.yaml").write_text(f"policy: {{pack: {tmp_path}/mine.yaml}}\n")
        (tmp_path / "mine.yaml").write_text(PACK % 7_000)
        await watched.takes(7_000)


async def test_reload_swapped_configmap_link_is_noticed(tmp_path: Path) -> None:
    """Kubernetes swaps the link ..data to a new folder; the file's own link never changes."""
    for number, grace_ms in ((1, 4_000), (2, 5_000)):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "mine.yaml").write_text(PACK % grace_ms)
    os.symlink("..1", tmp_path / "..data")
    os.symlink("..data/mine.yaml", tmp_path / "mine.yaml")
    async with watching(tmp_path) as watched:
        os.symlink("..2", tmp_path / "..tmp")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")
        await watched.takes(5_000)


async def test_reload_parent_of_a_pack_and_prompts_are_watched_too(tmp_path: Path) -> None:
    """A change in what the pack extends is taken; a prompt folder without the prompts is refused."""
    (tmp_path / "base.yaml").write_text(PACK.replace("mine", "base") % 4_000)
    (tmp_path / "mine.yaml").write_text("name: mine\nextends: base\n")
    async with watching(tmp_path) as watched:
        (tmp_path / "base.yaml").write_text(PACK.replace("mine", "base") % 5_000)
        await watched.takes(5_000)
        (tmp_path / "base.yaml").write_text("name: base\nextends: standard\nprompts: {warning: no-such-prompt}\n")
        await watched.refuses("no-such-prompt")


async def test_reload_secret_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """The settings are checked with what they name: a missing environment variable is a fault, told by its key."""
    async with watching(tmp_path) as watched:
        hook = "{name: crm, url: 'https://crm.example/', secret: 'env:FIRMLINE_NOT_SET'}"
        with (tmp_path / "config.yaml").open("a") as config:
            config.write(f"webhooks: {{endpoints: [{hook}]}}\n")
        await watched.refuses("webhooks.endpoints[0].secret: environment variable FIRMLINE_NOT_SET")


def test_in_force_takes_what_needs_no_restart_and_names_the_rest() -> None:
    """Ports, line and model wait for a restart; the rest is taken; nothing else moves."""
    new = parse_config(
        "line: {local_port: 5099}\nears: {model: base, no_audio_ms: 9000}\npbx: {transfer_to: '300'}\n"
        "api: {port: 1}\nlog: {level: debug}\nprompts: {echo_tail_ms: 100}\n",
        "new",
    )
    force, taken, restart = in_force(Config(), new)
    assert set(taken) == {"ears.no_audio_ms", "pbx.transfer_to", "log.level", "prompts.echo_tail_ms"}
    assert set(restart) == {"line.local_port", "ears.model", "api.port"}
    assert force.ears.no_audio_ms == 9_000 and force.ears.model == "tiny.en" and force.line.local_port == 5070


def test_engine_adopts_thresholds_in_mid_call_and_refuses_another_ladder(tmp_path: Path) -> None:
    """Rung and strikes stay; the new bar holds for the next words; a pack with other steps is not taken."""

    def pack(text: str) -> Engine:
        (tmp_path / "p.yaml").write_text(f"name: p\nextends: standard\nmeaning: {{enabled: false}}\n{text}")
        return Engine(load_pack(tmp_path / "p.yaml"))

    engine = pack("")
    engine.hear(Hotkey(Key.WARN, "agent:201"), 1_000)
    engine.hear(PromptDone("warning", 2_000, True), 2_000)
    assert engine.rung == "warned" and engine.strikes == 1
    assert not engine.adopt(pack("mode: warn").pack) and not engine.adopt(pack("ending: {kind: hangup}").pack)
    assert not engine.adopt(pack("tracks: {person: {steps: [warning, final_warning, end]}}").pack)
    before = engine.pack.version
    assert engine.adopt(pack("tracks: {person: {min_confidence: 1.0, end_confidence: 1.0}}").pack)
    assert engine.rung == "warned" and engine.strikes == 1 and engine.pack.version != before
    (held,) = engine.hear(Utterance("you useless idiot", Side.CALLER, 9_000, 10_000), 10_000)
    assert held.data["held"] == "not sure enough to count" and held.data["pack"] == engine.pack.version  # type: ignore[union-attr]


def test_call_keeps_its_mode_and_the_journal_says_so(tmp_path: Path) -> None:
    """A changed mode is for new calls; a changed threshold is taken; the same rule again is no news."""

    def told(text: str, mode: Mode | None = None) -> list[tuple[str, str]]:
        (tmp_path / "p.yaml").write_text(f"name: p\nextends: standard\nmeaning: {{enabled: false}}\n{text}")
        effects = call.adopt(load_pack(tmp_path / "p.yaml").in_mode(mode), 1_000)
        rows = [effect.data for effect in effects if isinstance(effect, Journal)]
        return [(row["action"], row["why"]) for row in rows]

    (tmp_path / "p.yaml").write_text("name: p\nextends: standard\nmeaning: {enabled: false}\n")
    engine = Engine(load_pack(tmp_path / "p.yaml"), adjustment="disability")
    call = CallCore("1.1", "201", engine, lambda _side: pytest.fail("no leg"), CallOptions(), 0)
    assert told("") == []
    assert told("", Mode.WARN) == [("pack_kept", "the mode warn is for new calls; this one stays in full")]
    ((action, why),) = told("timing: {grace_ms: 5000}")
    assert action == "pack_changed" and why.startswith("the pack changed from p@")
    assert told("timing: {grace_ms: 5000}") == [] and engine.pack.adjustment == "disability"
    assert told("ending: {kind: hangup}")[0][0] == "pack_kept"


# --- the real service -------------------------------------------------------------------------------------------------


@pytest.mark.sip
@pytest.mark.model
async def test_bad_yaml_under_ten_live_calls_changes_nothing_and_a_good_one_reaches_them(tmp_path: Path) -> None:
    """Refused with file and line in log, metric and status while ten calls go on; then a bar is raised in all of them.

    What happened is told to a webhook receiver, whose messages the standard's own library verifies.
    """
    async with Receiver() as receiver:
        events = ["rung", "action_done", "call_ended"]
        hooks = {"endpoints": [{"name": "crm", "url": receiver.url, "secret": SECRET, "events": events}]}
        async with Site(tmp_path, overrides={"webhooks": hooks}) as site:
            calls = await asyncio.gather(*(site.call() for _ in range(10)))
            before = {(await call.until("call_started"))["data"]["pack"] for call in calls}
            await _bad_then_good(site, calls[0])
            changed = [await call.until("signal", action="pack_changed") for call in calls]
            assert {row["data"]["pack"] for row in changed}.isdisjoint(before)
            await calls[1].insulted()
            held = await calls[1].until("signal", held="not sure enough to count")
            assert held["data"]["pack"] == changed[0]["data"]["pack"]
            assert all(await asyncio.gather(*(call.parties_hear_each_other() for call in calls[:3])))
            actions = [r for call in calls for r in call.rows if r["event"].startswith("action_")]
            assert actions and all("@" in row["data"]["pack"] for row in actions)
            await receiver.until(2)
            assert receiver.got[0]["type"] == "call.action_done" and receiver.got[1]["data"]["to"] == "warned"
            assert await site.well()


async def _bad_then_good(site: Site, call: LiveCall) -> None:
    """Save a pack with a fault on a known line, warn a caller meanwhile, then save one with a higher bar."""
    pack = site.folder / "quick.yaml"
    good = pack.read_text()
    tracks = yaml.safe_dump({"tracks": {"person": {"min_confidence": 1.0, "end_confidence": 1.0}}})
    bad_line = good.count("\n") + 3
    pack.write_text(good + tracks.replace("min_confidence: 1.0", "min_confidence: high"))
    wanted = f"quick.yaml:{bad_line + 1}: tracks.person.min_confidence"
    await eventually(lambda: _true(lambda: wanted in site.log()))
    assert await site.metric("firmline_config_reload_failed") == 1
    assert wanted in (await site.get("/api/status")).json()["config_error"]
    await call.warned()
    assert call.count("signal", action="pack_changed") == 0
    by_rename(pack, good + tracks)
    os.kill(site.service.pid, signal.SIGHUP)
    await eventually(lambda: _ok_again(site))
    assert (await site.get("/api/status")).json()["config_error"] is None


def _ok_again(site: Site) -> Awaitable[bool]:
    async def asked() -> bool:
        return await site.metric("firmline_config_reload_failed") == 0

    return asked()
