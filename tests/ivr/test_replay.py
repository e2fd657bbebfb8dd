"""Replay: a recording through the very pipeline of a call, with the real model, deterministic and in time order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.wavio import write_wav
from ivr.config import Config
from ivr.errors import ConfigError, FirmlineError, WavError
from ivr.replaying import replay_file, replay_text
from ivr.timeline import check_plot_path, draw
from tests.ivr.calls import silence, speech

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def abusive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A caller with a grievance who turns on the agent, is warned, and goes on."""
    path = tmp_path_factory.mktemp("replay") / "abusive.wav"
    parts = [silence(500), speech("pat_billing"), silence(1_500), speech("pat_insult"), silence(14_000)]
    parts += [speech("pat_insult_again"), silence(2_000)]
    path.write_bytes(write_wav(np.concatenate(parts), 8_000))
    return path


@pytest.fixture(scope="module")
def rows(abusive: Path) -> list[dict[str, Any]]:
    """Its lines."""
    return list(replay_file(Config(), abusive))


def test_replay_of_an_abusive_call_warns_then_transfers(rows: list[dict[str, Any]]) -> None:
    """Warning, closing prompt, transfer, end: each with the times of the words that caused it."""
    actions = [row for row in rows if row["event"] == "action"]
    assert [row.get("prompt") or row["action"] for row in actions] == ["warning", "closing_transfer", "transfer"]
    for action in actions:
        assert 0 < action["heard_ms"] < action["decided_ms"] <= action["t_ms"]
    assert rows[-1]["event"] == "end" and rows[-1]["why"] == "firmline: transfer"


def test_replay_lines_are_in_time_order_and_json(rows: list[dict[str, Any]]) -> None:
    """Lines can be piped to any tool; text lines exist for each."""
    times = [row["t_ms"] for row in rows]
    assert times == sorted(times)
    assert {row["event"] for row in rows} <= {"utterance", "signal", "strike", "rung", "action", "end"}
    for row in rows:
        assert json.loads(json.dumps(row)) == row
        assert replay_text(row)


def test_replay_twice_gives_the_same_lines(abusive: Path, rows: list[dict[str, Any]]) -> None:
    """Deterministic: a pack can be tuned on it."""
    assert list(replay_file(Config(), abusive)) == rows


def test_replay_under_the_shadow_pack_records_and_never_acts(abusive: Path) -> None:
    """Shadow: strikes are counted, nobody hears anything."""
    lines = list(replay_file(Config(), abusive, "shadow"))
    assert [row for row in lines if row["event"] == "action"] == []
    assert [row for row in lines if row["event"] == "strike"]


def test_replay_of_an_upset_civil_call_does_nothing(tmp_path: Path) -> None:
    """Angry at the situation: no strike, no action; stereo with a polite agent."""
    caller = np.concatenate([speech("kim_angry"), silence(7_000), speech("kim_disgrace"), silence(1_000)])
    agent = np.concatenate([silence(12_500), speech("sam_sorry"), silence(20_000)])[: len(caller)]
    stereo = np.stack([caller, agent], axis=1)
    import io

    import soundfile as sf

    out = io.BytesIO()
    sf.write(out, stereo, 8_000, format="WAV", subtype="PCM_16")
    path = tmp_path / "upset.wav"
    path.write_bytes(out.getvalue())
    lines = list(replay_file(Config(), path))
    assert [row for row in lines if row["event"] in ("action", "strike", "rung")] == []
    heard = " ".join(row["words"] for row in lines if row["event"] == "utterance")
    assert "angry" in heard.lower() and "disgrace" in heard.lower()


def test_replay_of_a_recording_without_sound_in_it_ends_with_no_more_than_the_end(tmp_path: Path) -> None:
    """Silence produces no words."""
    path = tmp_path / "silence.wav"
    path.write_bytes(write_wav(silence(5_000), 8_000))
    assert [row["event"] for row in replay_file(Config(), path)] == ["end"]


def test_replay_of_what_is_no_wav_names_the_file(tmp_path: Path) -> None:
    """A clear error, not a traceback."""
    path = tmp_path / "notes.wav"
    path.write_text("these are notes")
    with pytest.raises(WavError, match="notes.wav"):
        list(replay_file(Config(), path))
    with pytest.raises(WavError, match="no such file"):
        list(replay_file(Config(), tmp_path / "none.wav"))


@pytest.mark.parametrize("name", ["timeline.png", "timeline.html"])
def test_timeline_is_written_and_holds_what_happened(rows: list[dict[str, Any]], tmp_path: Path, name: str) -> None:
    """A picture for a meeting, a page for the record."""
    path = tmp_path / name
    draw(rows, path, title="abusive.wav")
    data = path.read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
    else:
        text = data.decode()
        assert "<svg" in text and "closing_transfer" in text and "useless idiot" in text


def test_timeline_with_an_unusable_name_is_refused_before_the_work(tmp_path: Path) -> None:
    """Nobody waits a minute to learn that .gif is not supported."""
    with pytest.raises(ConfigError, match=r"must end in .png or .html"):
        check_plot_path(tmp_path / "a.gif")
    with pytest.raises(FirmlineError, match="is not there"):
        check_plot_path(tmp_path / "no" / "a.png")
