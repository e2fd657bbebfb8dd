"""WAV files of every kind a call centre keeps are read, and nothing that is handed in does harm."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.types import Pcm
from audio.wavio import BadWav, Recording, frames, open_blocks, read_blocks, read_wav, stream_frames, write_wav


def tone(rate_hz: int, ms: int = 500, hz: float = 440.0, level: float = 0.5) -> np.ndarray[Any, np.dtype[np.float64]]:
    t = np.arange(rate_hz * ms // 1000) / rate_hz
    return level * np.sin(2 * np.pi * hz * t)


def wav(samples: Any, rate_hz: int, subtype: str, container: str = "WAV") -> bytes:
    out = io.BytesIO()
    sf.write(out, samples, rate_hz, format=container, subtype=subtype)
    return out.getvalue()


def riff(*chunks: tuple[bytes, bytes], claims: int | None = None) -> bytes:
    """A RIFF file by hand; ``claims`` is the length that the last chunk pretends to have."""
    body = b"WAVE"
    for i, (name, data) in enumerate(chunks):
        length = claims if claims is not None and i == len(chunks) - 1 else len(data)
        body += name + struct.pack("<I", length) + data + b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(channels: int = 1, rate_hz: int = 8000, bits: int = 16, tag: int = 1) -> tuple[bytes, bytes]:
    align = channels * bits // 8
    rate_bytes = (rate_hz * align) & 0xFFFFFFFF
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate_hz, rate_bytes, align & 0xFFFF, bits)


def distance_db(got: Pcm, wanted: Any) -> float:
    """Error against signal, in dB."""
    want = np.asarray(wanted) * 32768
    n = min(len(got), len(want))
    return float(10 * np.log10(np.mean((got[:n] - want[:n]) ** 2 + 1e-9) / np.mean(want[:n] ** 2)))


@pytest.mark.parametrize(
    ("subtype", "error_db"),
    [
        ("PCM_U8", -35),
        ("PCM_16", -80),
        ("PCM_24", -80),
        ("PCM_32", -80),
        ("FLOAT", -80),
        ("DOUBLE", -80),
        ("ULAW", -33),
        ("ALAW", -33),
        ("IMA_ADPCM", -20),
        ("MS_ADPCM", -20),
    ],
)
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_read_wav_each_encoding_gives_the_sound_itself(subtype: str, error_db: float, rate_hz: int) -> None:
    """Every encoding comes back as the same tone, within what the encoding loses."""
    sound = tone(rate_hz)
    recording = read_wav(wav(sound, rate_hz, subtype), "x.wav")
    assert recording.rate_hz == rate_hz
    assert len(recording.channels) == 1
    assert recording.channels[0].dtype == np.int16
    assert distance_db(recording.channels[0], sound) < error_db


def test_read_wav_gsm_asterisk_wav49_is_read() -> None:
    """Asterisk's own compressed recordings need no conversion."""
    recording = read_wav(wav(tone(8000), 8000, "GSM610"), "x.WAV")
    assert 490 <= recording.duration_ms <= 560


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_read_wav_stereo_keeps_the_sides_apart(container: str) -> None:
    """The left channel is the caller and the right one the agent, also in WAVE_FORMAT_EXTENSIBLE and RF64."""
    left, right = tone(44100, hz=300), tone(44100, hz=900)
    recording = read_wav(wav(np.column_stack((left, right)), 44100, "PCM_24", container), "x.wav")
    assert distance_db(recording.channels[0], left) < -80
    assert distance_db(recording.channels[1], right) < -80
    assert recording.duration_ms == 500


def test_read_wav_float_out_of_range_is_limited() -> None:
    """Floats over full scale, infinities and not-a-number become legal samples, without a warning."""
    values = np.array([2.0, -2.0, np.inf, -np.inf, np.nan, 0.5], dtype=np.float32)
    recording = read_wav(wav(values, 8000, "FLOAT"), "x.wav")
    assert recording.channels[0].tolist() == [32767, -32768, 32767, -32768, 0, 16384]


def test_read_wav_open_file_reads_from_its_start() -> None:
    """A file object is read whole wherever it stands, and so hours of sound need not be bytes first."""
    file = io.BytesIO(write_wav(np.arange(800, dtype=np.int16), 8000))
    file.seek(99)
    assert read_wav(file, "x.wav").channels[0].tolist() == list(range(800))


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_read_wav_length_never_filled_in_is_read_to_the_end(claimed: int) -> None:
    """A recorder that was killed, or that wrote to a pipe, still left a usable recording."""
    sound = np.arange(8000, dtype="<i2").tobytes()
    recording = read_wav(riff(fmt(), (b"data", sound), claims=claimed), "x.wav")
    assert len(recording.channels[0]) == 8000


def test_read_wav_chunks_before_the_sound_are_skipped() -> None:
    """Broadcast and list chunks, odd lengths included, do not hide the sound."""
    data = riff((b"bext", b"x" * 603), fmt(), (b"LIST", b"INFOabc"), (b"data", b"\1\0" * 160))
    assert read_wav(data, "x.wav").channels[0].tolist() == [1] * 160


PCM = np.full(800, 7, dtype="<i2").tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file is empty"),
        (b"RI", "cut short inside the WAV header"),
        (b"RIFF\0\0\0\0", "cut short inside the WAV header"),
        (b"ID3\3 this is a song" * 20, "not a WAV file"),
        (b"<!doctype html><html>not found</html>", "not a WAV file"),
        (wav(tone(8000), 8000, "PCM_16", "FLAC"), "not a WAV file"),
        (riff(), "the sound is not"),
        (riff(fmt()), "the sound is not"),
        (riff(fmt(), (b"data", b"")), "holds no sound"),
        (riff(fmt(), (b"data", b""), (b"LIST", b"INFO")), "holds no sound"),
        (riff((b"data", PCM)), "not a WAV file that can be read"),
        (
            riff(fmt(), (b"data", PCM), claims=5000),
            "cut short: its header promises 5,000 bytes of sound, it holds 1,600",
        ),
        (riff(fmt(), (b"data", PCM), claims=0x7000_0000), "cut short"),
        (wav(tone(8000), 8000, "PCM_16")[:3000], "cut short"),
        (riff(fmt(channels=6), (b"data", PCM)), "6 channels; mono (the caller) or stereo (caller, agent) is needed"),
        (riff(fmt(channels=65535), (b"data", PCM)), "x.wav"),
        (riff(fmt(channels=0), (b"data", PCM)), "x.wav"),
        (riff(fmt(rate_hz=0), (b"data", PCM)), "x.wav"),
        (riff(fmt(rate_hz=11), (b"data", PCM)), "a sample rate of 11 Hz cannot be right"),
        (riff(fmt(rate_hz=0x7FFFFFFF), (b"data", PCM)), "a sample rate of 2,147,483,647 Hz cannot be right"),
        (riff(fmt(bits=0), (b"data", PCM)), "x.wav"),
        (riff(fmt(tag=0x55), (b"data", PCM)), "x.wav"),
        (riff(fmt(tag=0xBEEF), (b"data", PCM)), "x.wav"),
        (riff(*[(b"junk", b"")] * 5000, fmt(), (b"data", PCM)), "over 1000 chunks"),
        (riff((b"junk", b"abc"), claims=0xFFFFFFF0), "the sound is not"),
    ],
)
def test_read_wav_unusable_says_why_in_one_sentence(data: bytes, says: str) -> None:
    """What cannot be read is a BadWav that names the file and the reason, never another exception."""
    with pytest.raises(BadWav) as caught:
        read_wav(data, "x.wav")
    text = str(caught.value)
    assert text.startswith("x.wav: ")
    assert says in text
    assert "\n" not in text and "BytesIO" not in text


def check_harmless(data: bytes) -> None:
    try:
        recording = read_wav(data, "x.wav")
    except BadWav as exc:
        assert str(exc).startswith("x.wav: ")
        return
    assert isinstance(recording, Recording)
    assert len({len(channel) for channel in recording.channels}) == 1
    assert len(recording.channels[0]) > 0
    # ADPCM and GSM unpack about fivefold; nothing may be made up from a header's claim.
    assert sum(len(channel) for channel in recording.channels) <= 8 * len(data) + 4096


@given(st.binary(max_size=400))
def test_read_wav_random_bytes_is_a_recording_or_bad_wav(data: bytes) -> None:
    """Any bytes at all, bare or behind a RIFF header, give a Recording or a BadWav."""
    check_harmless(data)
    check_harmless(b"RIFF\xff\xff\xff\xffWAVE" + data)
    check_harmless(b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + data)


SEEDS: list[bytes] = [
    wav(tone(8000, 50), 8000, subtype, container)
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW", "GSM610", "IMA_ADPCM", "MS_ADPCM")
    for container in ("WAV", "WAVEX")
    if container == "WAV" or not subtype.endswith(("ADPCM", "610"))
]


@settings(max_examples=400)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 12),
)
def test_read_wav_damaged_file_is_a_recording_or_bad_wav(seed: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    """Real files with bytes of the header changed and the end cut off do no harm either."""
    data = bytearray(seed[: max(0, len(seed) - cut)] if cut % 2 else seed)
    for at, value in damage:
        if at < len(data):
            data[at] = value
    check_harmless(bytes(data))


def test_read_blocks_long_recording_comes_in_parts() -> None:
    """A long stereo recording arrives block by block, and the parts make the whole."""
    samples = np.arange(2 * 50_000, dtype=np.int16).reshape(-1, 2)
    data = write_wav(samples, 8000)
    parts = list(read_blocks(data, "x.wav", block_ms=1000))
    assert [len(part[0]) for part in parts] == [8000] * 6 + [2000]
    assert np.array_equal(np.concatenate([part[1] for part in parts]), samples[:, 1])


def test_open_blocks_header_is_known_before_the_sound() -> None:
    """Length and channels can be shown before anything is decoded."""
    info, _ = open_blocks(write_wav(np.zeros((16000, 2), dtype=np.int16) + 1, 8000), "x.wav")
    assert (info.rate_hz, info.channels, info.duration_ms, info.subtype) == (8000, 2, 2000, "PCM_16")


def test_frames_last_one_is_padded_and_times_run_on() -> None:
    """Frames are 20 ms each from the start time on, the last filled with silence."""
    got = list(frames(np.ones(400, dtype=np.int16), 8000, start_ms=1000))
    assert [(f.t_ms, f.rate_hz, len(f.samples)) for f in got] == [
        (1000, 8000, 160),
        (1020, 8000, 160),
        (1040, 8000, 160),
    ]
    assert got[2].samples.tolist() == [1] * 80 + [0] * 80
    assert list(frames(np.zeros(0, dtype=np.int16), 8000)) == []


def test_frames_studio_rate_is_resampled() -> None:
    """A 44.1 kHz tone is the same tone in 8 kHz frames."""
    sound = (tone(44100, 1000) * 32767).astype(np.int16)
    got = np.concatenate([f.samples for f in frames(sound, 44100)])
    assert len(got) == 8000
    assert distance_db(got[400:-400], tone(8000, 1000)[400:-400]) < -50


def test_stream_frames_agrees_with_reading_the_whole() -> None:
    """Streaming a 44.1 kHz stereo recording in blocks gives the frames that reading it whole gives."""
    rate_hz, ms = 44100, 25_000
    left, right = tone(rate_hz, ms, 300), tone(rate_hz, ms, 700, 0.25)
    data = wav(np.column_stack((left, right)), rate_hz, "PCM_16")
    info, items = stream_frames(data, "x.wav", start_ms=40)
    got = list(items)
    whole = read_wav(data, "x.wav")
    assert info.duration_ms == ms
    assert [item[0].t_ms for item in got] == list(range(40, 40 + ms, 20))
    assert all(item[0].t_ms == item[1].t_ms for item in got)
    for side in (0, 1):
        wanted = np.concatenate([f.samples for f in frames(whole.channels[side], rate_hz)])
        heard = np.concatenate([item[side].samples for item in got])
        assert np.max(np.abs(heard.astype(int) - wanted.astype(int))) <= 2


def test_stream_frames_truncated_says_so_before_any_frame() -> None:
    """A cut recording is refused at once, not in the middle of a replay."""
    with pytest.raises(BadWav, match="cut short"):
        stream_frames(wav(tone(8000), 8000, "PCM_16")[:-10], "x.wav")


@pytest.mark.parametrize("shape", [(800,), (400, 2)])
def test_write_wav_round_trip_is_exact(shape: tuple[int, ...]) -> None:
    """What was written is read back sample for sample."""
    samples = np.random.default_rng(1).integers(-32768, 32767, shape).astype(np.int16)
    recording = read_wav(write_wav(samples, 16000), "x.wav")
    assert recording.rate_hz == 16000
    assert np.array_equal(np.column_stack(recording.channels).reshape(shape), samples)


def test_read_wav_failing_file_is_bad_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in mid-read ends in the same kind of error."""
    broken: Callable[..., Any] = lambda *_, **__: (_ for _ in ()).throw(OSError("I/O error"))  # noqa: E731
    monkeypatch.setattr(sf.SoundFile, "read", broken)
    with pytest.raises(BadWav, match=r"x\.wav: damaged after 0 ms \(I/O error\)"):
        read_wav(write_wav(np.ones(80, dtype=np.int16), 8000), "x.wav")
