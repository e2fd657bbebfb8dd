"""The commands as a user runs them: real processes, their output, their exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio.wavio import write_wav
from tests.ivr.calls import silence, speech

ROOT = Path(__file__).parents[2]
COMMANDS = ["run", "demo", "check", "judge", "transcribe", "replay", "tune", "prompts list", "prompts render"]
COMMANDS += ["bench reaction", "bench capacity", "token add", "token list", "token remove", "hotkey"]
COMMANDS += ["webhooks test", "webhooks list", "report", "doctor"]


def firmline(*args: str, cwd: Path, stdin: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run ``firmline`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ivr", *args],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def rows(text: str) -> list[dict[str, object]]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command_teaches_with_an_example(command: str, tmp_path: Path) -> None:
    """``--help`` needs no config and shows how the command is used."""
    done = firmline(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "firmline" in done.stdout.split("Options:")[0]
    if command:
        assert "Example" in done.stdout and "--config" in done.stdout and "--log-level" in done.stdout


def test_unknown_command_and_option_end_2(tmp_path: Path) -> None:
    """Usage errors are 2 and say what is known."""
    for args in (["runn"], ["judge", "--pak", "x"], ["replay"]):
        done = firmline(*args, cwd=tmp_path)
        assert done.returncode == 2 and "Usage:" in done.stderr and "Traceback" not in done.stderr


def test_judge_gives_the_contract_line_for_each_line(tmp_path: Path) -> None:
    """One JSON object a line, exactly the keys of the contract, in order."""
    done = firmline("judge", cwd=tmp_path, stdin="you useless idiot\n\nthank you so much\nthis bloody thing 😀\n")
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["text"] for row in found] == ["you useless idiot", "", "thank you so much", "this bloody thing 😀"]
    for row in found:
        assert set(row) == {"text", "category", "severity", "directed", "strike", "confidence", "why"}
    assert [row["strike"] for row in found] == [True, False, False, False]
    strict = firmline("judge", "--pack", "strict", cwd=tmp_path, stdin="this fucking router\n")
    assert rows(strict.stdout)[0]["strike"] is True


def test_judge_of_bytes_that_are_no_text_goes_on(tmp_path: Path) -> None:
    """A broken line costs itself."""
    done = subprocess.run(
        [sys.executable, "-m", "ivr", "judge"],
        cwd=tmp_path,
        input=b"\xff\xfe\x00 hello\nyou idiot\n",
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0 and [row["strike"] for row in rows(done.stdout.decode())] == [False, True]


def test_judge_with_an_unknown_pack_ends_2_and_names_the_known(tmp_path: Path) -> None:
    """A typo is answered with what there is."""
    done = firmline("judge", "--pack", "standrad", cwd=tmp_path)
    assert done.returncode == 2 and "standard" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("line:\n  usrname: x\n", "c.yaml:2: line.usrname: unknown key; did you mean `username`?"),
        ("ears:\n  workers: many\n", "c.yaml:2: ears.workers: input should be a valid integer, found 'many'"),
        ("policy:\n  pack: nowhere.yaml\n", "nowhere.yaml"),
        ("prompts:\n  directory: /does/not/exist\n", "/does/not/exist"),
        ("ears:\n  model: /does/not/exist\n", "/does/not/exist"),
    ],
)
def test_run_with_a_bad_setting_ends_before_any_socket_and_names_it(text: str, said: str, tmp_path: Path) -> None:
    """Bad input: a clear error, no traceback, nothing half-started."""
    (tmp_path / "c.yaml").write_text(text)
    done = firmline("run", "-c", "c.yaml", "--json", cwd=tmp_path)
    assert done.returncode in (1, 2) and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_run_with_no_model_anywhere_says_so_with_the_fix(tmp_path: Path) -> None:
    """Firmline never silently hears nothing."""
    (tmp_path / "c.yaml").write_text("ears: {model: nobody/no-such-model, offline: true}\n")
    done = firmline("run", "-c", "c.yaml", cwd=tmp_path)
    assert done.returncode == 1 and "no-such-model" in done.stderr and "ears.model" in done.stderr, done.stderr


@pytest.mark.parametrize("kind", ["sip", "api"])
def test_run_with_a_taken_port_names_port_and_fix(kind: str, tmp_path: Path) -> None:
    """Two services on one port: the second says which port, and goes."""
    which = socket.SOCK_DGRAM if kind == "sip" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, which) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "api":
            taken.listen()
        port = taken.getsockname()[1]
        line, api = (port, 0) if kind == "sip" else (0, port)
        (tmp_path / "c.yaml").write_text(f"line: {{local_port: {line}}}\napi: {{port: {api}}}\n")
        done = firmline("run", "-c", "c.yaml", cwd=tmp_path)
    assert done.returncode == 1 and str(port) in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_check_says_what_would_be_used_and_ends_0(tmp_path: Path) -> None:
    """Everything right: one line a part."""
    (tmp_path / "c.yaml").write_text("line: {local_port: 0}\napi: {port: 0}\n")
    done = firmline("check", "-c", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["config", "policy", "ears", "journal", "api", "line", "pbx"]
    assert "FAULT" not in done.stdout and "standard@" in done.stdout and "tiny.en" in done.stdout


def test_check_with_several_faults_names_each_and_ends_1(tmp_path: Path) -> None:
    """Nobody has to mend one fault at a time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        (tmp_path / "c.yaml").write_text(
            f"line: {{local_port: 0, server: 127.0.0.1, server_port: {port}}}\napi: {{port: 0}}\n"
            "journal: {path: /proc/nowhere/x.db}\n"
        )
        done = firmline("check", "-c", "c.yaml", cwd=tmp_path)
    assert done.returncode == 1
    faults = [line.split()[0] for line in done.stdout.splitlines() if "FAULT" in line]
    assert faults == ["journal", "line"], done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings, good and bad."""
    folder = tmp_path_factory.mktemp("wavs")
    call = np.concatenate([silence(500), speech("pat_insult"), silence(900)])
    (folder / "mono.wav").write_bytes(write_wav(call, 8_000))
    wide = np.repeat(call, 2)
    sf.write(folder / "stereo.wav", np.stack([wide, np.zeros_like(wide)], axis=1), 16_000, subtype="PCM_16")
    from audio.resample import resample

    studio = resample(call, 8_000, 44_100)
    sf.write(folder / "studio.wav", studio.astype(np.float64) / 32768, 44_100, subtype="PCM_24")
    with wave.open(str(folder / "empty.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
    (folder / "not.wav").write_bytes(b"RIFF????but not a wave at all")
    (folder / "cut.wav").write_bytes((folder / "mono.wav").read_bytes()[:2_000])
    return folder


@pytest.mark.parametrize("name", ["mono", "stereo", "studio"])
def test_transcribe_hears_the_words_whatever_the_format(name: str, said: Path) -> None:
    """8 kHz mono, 16 kHz stereo, 44.1 kHz 24-bit: the same words."""
    done = firmline("transcribe", f"{name}.wav", cwd=said)
    assert done.returncode == 0, done.stderr
    assert "useless idiot" in done.stdout


def test_transcribe_json_has_times_and_bad_files_cost_only_themselves(said: Path) -> None:
    """One object a readable file; each unreadable one is named on stderr; the exit code tells."""
    done = firmline("transcribe", "not.wav", "mono.wav", "empty.wav", "cut.wav", "gone.wav", "--json", cwd=said)
    assert done.returncode == 1
    [found] = [row for row in rows(done.stdout) if row["utterances"]]
    [utterance] = found["utterances"]  # type: ignore[misc]
    assert 400 <= utterance["start_ms"] < utterance["end_ms"] <= 3_500  # type: ignore[index]
    for name in ("not.wav", "cut.wav", "gone.wav", "empty.wav"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["mono", "stereo", "studio"])
def test_replay_gives_the_same_story_whatever_the_format(name: str, said: Path) -> None:
    """The strike and the warning come from any WAV a recorder writes."""
    done = firmline("replay", f"{name}.wav", "--json", cwd=said)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row.get("prompt") for row in found if row["event"] == "action"] == ["warning"]
    assert found[-1]["event"] == "end"


@pytest.mark.parametrize("name", ["not", "cut", "empty", "gone"])
def test_replay_of_an_unusable_wav_ends_1_with_one_line(name: str, said: Path) -> None:
    """What is no recording is said in one line that names the file."""
    done = firmline("replay", f"{name}.wav", cwd=said)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{name}.wav" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_replay_plot_with_two_files_or_a_wrong_name_is_a_usage_error(said: Path) -> None:
    """Refused before the work."""
    assert firmline("replay", "mono.wav", "stereo.wav", "--plot", "a.png", cwd=said).returncode == 2
    assert firmline("replay", "mono.wav", "--plot", "a.bmp", cwd=said).returncode == 2


def test_prompts_list_shows_every_prompt_with_its_text(tmp_path: Path) -> None:
    """Ops can read what callers will hear."""
    done = firmline("prompts", "list", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(
        list((ROOT / "audio/catalogue/en/8000").glob("*"))
    )
    assert "warning" in done.stdout and "end" in done.stdout
