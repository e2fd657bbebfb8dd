"""WAV bytes to samples and back, for recordings, prompts and tests; the only importer of soundfile.

Takes bytes or a file that someone else opened and never touches a disk itself. A WAV comes from strangers: whatever
the bytes are, the result is a ``Recording`` or a ``BadWav`` whose one sentence can be shown to a person.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf

from audio.resample import StreamResampler, resample
from audio.types import PTIME_MS, AudioFrame, Pcm

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 384_000
"""Outside these no telephone, recorder or studio works: the header is damaged or hostile."""
MAX_CHANNELS = 2
BLOCK_MS = 10_000
MAX_CHUNKS = 1_000

_FLOATS = frozenset({"FLOAT", "DOUBLE"})
_KNOWN_SUBTYPES = _FLOATS | {
    "PCM_U8",
    "PCM_16",
    "PCM_24",
    "PCM_32",
    "ULAW",
    "ALAW",
    "GSM610",  # Asterisk's own ``wav49``
    "IMA_ADPCM",
    "MS_ADPCM",
}
# Written by programs that stream to a pipe and cannot go back to fill in the length (0xFFFFFFFF by ffmpeg, near 2^31
# by sox); 0 is what a recorder killed in mid-call leaves. All of these mean "to the end of the file".
_OPEN_ENDED_BYTES = 0x7FFF_0000


class BadWav(ValueError):
    """Bytes that are no usable recording; the text names the source and says in one sentence what is wrong."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole recording: one or two channels of the same length, each of shape ``(n,)``, n > 0."""

    rate_hz: int
    channels: tuple[Pcm, ...]

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds, rounded down."""
        return len(self.channels[0]) * 1000 // self.rate_hz


@dataclass(frozen=True, slots=True)
class WavInfo:
    """What the header says, once it has been checked."""

    rate_hz: int
    channels: int
    samples: int
    """Samples in each channel."""
    subtype: str

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds, rounded down."""
        return self.samples * 1000 // self.rate_hz


def read_wav(data: bytes | BinaryIO, source: str) -> Recording:
    """Read a whole mono or stereo WAV: 8, 16, 24 or 32-bit, float, A-law, mu-law, GSM 6.10 or ADPCM, at any rate.

    Args:
        data: the file's bytes, or a seekable binary file open at any position.
        source: how to name it in an error.

    Raises:
        BadWav: not a WAV, cut short, empty, an encoding we do not know, more than two channels, an absurd rate.
    """
    info, blocks = open_blocks(data, source)
    parts = list(blocks)
    channels = tuple(np.concatenate([part[i] for part in parts]) for i in range(info.channels))
    return Recording(info.rate_hz, channels)


def read_blocks(data: bytes | BinaryIO, source: str, block_ms: int = BLOCK_MS) -> Iterator[tuple[Pcm, ...]]:
    """The same recording in blocks of at most ``block_ms``, one array a channel, so that hours fit in memory.

    Raises:
        BadWav: as ``read_wav``; before the first block, or when the file turns out to be damaged further in.
    """
    return open_blocks(data, source, block_ms)[1]


def open_blocks(
    data: bytes | BinaryIO, source: str, block_ms: int = BLOCK_MS
) -> tuple[WavInfo, Iterator[tuple[Pcm, ...]]]:
    """Check the header now and hand back what it says, with the blocks still to be read.

    Raises:
        BadWav: as ``read_wav``.
    """
    file = io.BytesIO(data) if isinstance(data, bytes | bytearray) else data
    opened = _checked_riff(file, source)
    opened.seek(0)
    try:
        sound = sf.SoundFile(opened)
    except (sf.LibsndfileError, RuntimeError, OSError, ValueError, TypeError) as exc:
        raise BadWav(f"{source}: not a WAV file that can be read ({_reason(exc)})") from exc
    info = _checked_info(sound, source)
    return info, _blocks(sound, info, source, max(1, block_ms * info.rate_hz // 1000))


def frames(samples: Pcm, rate_hz: int, *, to_hz: int = 8000, start_ms: int = 0) -> Iterator[AudioFrame]:
    """One channel as 20 ms frames at ``to_hz``, the last one padded with silence; nothing for no samples.

    Args:
        samples: shape ``(n,)`` at ``rate_hz``.
        rate_hz: rate of ``samples``.
        to_hz: rate of the frames.
        start_ms: time of the first frame.
    """
    if rate_hz != to_hz:
        samples = resample(samples, rate_hz, to_hz)
    size = to_hz * PTIME_MS // 1000
    for index, at in enumerate(range(0, len(samples), size)):
        part = samples[at : at + size]
        if len(part) < size:
            part = np.pad(part, (0, size - len(part)))
        yield AudioFrame(start_ms + index * PTIME_MS, to_hz, part)


def stream_frames(
    data: bytes | BinaryIO, source: str, *, to_hz: int = 8000, start_ms: int = 0
) -> tuple[WavInfo, Iterator[tuple[AudioFrame, ...]]]:
    """A recording of any length as 20 ms frames, one a channel at a time, holding only seconds of it in memory.

    Returns:
        What the header says, and the frames: each item has one frame a channel, all for the same 20 ms.

    Raises:
        BadWav: as ``read_wav``, at once for the header and while iterating for damage further in.
    """
    info, blocks = open_blocks(data, source)
    return info, _stream(info, blocks, to_hz, start_ms)


def _stream(
    info: WavInfo, blocks: Iterator[tuple[Pcm, ...]], to_hz: int, start_ms: int
) -> Iterator[tuple[AudioFrame, ...]]:
    size = to_hz * PTIME_MS // 1000
    resamplers = None if info.rate_hz == to_hz else [StreamResampler(info.rate_hz, to_hz) for _ in range(info.channels)]
    none: Pcm = np.zeros(0, dtype=np.int16)
    held = [none] * info.channels
    t_ms = start_ms
    for block in itertools.chain(blocks, [None]):
        last = block is None
        for i, samples in enumerate(block or [none] * info.channels):
            ready = resamplers[i].hear(samples, last=last) if resamplers else samples
            held[i] = np.concatenate((held[i], ready))
        if last and len(held[0]) % size:
            held = [np.pad(samples, (0, -len(samples) % size)) for samples in held]
        count = len(held[0]) // size
        for k in range(count):
            yield tuple(AudioFrame(t_ms, to_hz, samples[k * size : (k + 1) * size]) for samples in held)
            t_ms += PTIME_MS
        held = [samples[count * size :] for samples in held]


def write_wav(samples: Pcm, rate_hz: int) -> bytes:
    """A 16-bit PCM WAV of samples of shape ``(n,)`` (mono) or ``(n, channels)``."""
    out = io.BytesIO()
    sf.write(out, np.asarray(samples, dtype=np.int16), rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()


# --- header -----------------------------------------------------------------------------------------------------------


class _LengthMended:
    """A WAV whose recorder died before it filled in the length, as if it said "to the end of the file".

    libsndfile knows that sign, but takes a length of 0 at its word.
    """

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file, self._at = file, at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int = -1) -> bytes:
        start = self._file.tell()
        data = bytearray(self._file.read(count))
        for position in range(max(start, self._at), min(start + len(data), self._at + 4)):
            data[position - start] = 0xFF
        return bytes(data)


def _checked_riff(file: BinaryIO, source: str) -> BinaryIO | _LengthMended:
    """Refuse what is no WAV, and a data chunk that promises more than the file holds.

    libsndfile reads a cut file without a word. A replay of half a call would then pass for the whole.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise BadWav(f"{source}: the file is empty")
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:12] != b"WAVE":
        if len(head) < 12 and b"RIFF".startswith(head[:4]):
            raise BadWav(f"{source}: cut short inside the WAV header")
        raise BadWav(f"{source}: not a WAV file (it does not begin with a RIFF/WAVE header)")
    order: Literal["big", "little"] = "big" if head[:4] == b"RIFX" else "little"
    at = len(head)
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        chunk = file.read(8)
        if len(chunk) < 8:
            raise BadWav(f"{source}: cut short: the WAV header is there, the sound is not")
        length = int.from_bytes(chunk[4:], order)
        if chunk[:4] == b"data":
            return _checked_data(file, at, length, size, source)
        at += 8 + length + (length & 1)
    raise BadWav(f"{source}: not a WAV file that can be read (over {MAX_CHUNKS} chunks before the sound)")


def _checked_data(file: BinaryIO, at: int, claimed: int, size: int, source: str) -> BinaryIO | _LengthMended:
    """``at`` is where the data chunk begins, ``claimed`` its length by its own header, ``size`` that of the file."""
    held = size - at - 8
    if held == 0:
        raise BadWav(f"{source}: the WAV file holds no sound")
    if held < claimed < _OPEN_ENDED_BYTES:
        raise BadWav(f"{source}: cut short: its header promises {claimed:,} bytes of sound, it holds {held:,}")
    if claimed != 0:
        return file
    trailer = file.read(4)
    if len(trailer) == 4 and trailer.isascii() and trailer.decode().isprintable():
        raise BadWav(f"{source}: the WAV file holds no sound")  # an empty recording with its tags behind it
    return _LengthMended(file, at + 4)


def _checked_info(sound: Any, source: str) -> WavInfo:
    info = WavInfo(int(sound.samplerate), int(sound.channels), int(sound.frames), str(sound.subtype))
    if info.subtype not in _KNOWN_SUBTYPES:
        raise BadWav(f"{source}: encoded as {info.subtype}, which is not supported; convert it to 16-bit PCM")
    if not MIN_RATE_HZ <= info.rate_hz <= MAX_RATE_HZ:
        raise BadWav(
            f"{source}: a sample rate of {info.rate_hz:,} Hz cannot be right; it must be {MIN_RATE_HZ:,} to "
            f"{MAX_RATE_HZ:,} Hz"
        )
    if info.channels > MAX_CHANNELS:
        raise BadWav(f"{source}: {info.channels} channels; mono (the caller) or stereo (caller, agent) is needed")
    if info.samples <= 0:
        raise BadWav(f"{source}: the WAV file holds no sound")
    return info


# --- samples ----------------------------------------------------------------------------------------------------------


def _blocks(sound: Any, info: WavInfo, source: str, size: int) -> Iterator[tuple[Pcm, ...]]:
    # libsndfile does not scale floats when asked for integers: -1..1 would all become silence.
    dtype = "float32" if info.subtype in _FLOATS else "int16"
    got = 0
    with sound:
        while True:
            try:
                block = sound.read(size, dtype=dtype, always_2d=True)
            except (sf.LibsndfileError, RuntimeError, OSError, ValueError) as exc:
                raise BadWav(f"{source}: damaged after {got * 1000 // info.rate_hz:,} ms ({_reason(exc)})") from exc
            if len(block) == 0:
                break
            got += len(block)
            yield tuple(_to_int16(block[:, i]) for i in range(info.channels))
    if got == 0:
        raise BadWav(f"{source}: the WAV file holds no sound")


def _to_int16(samples: npt.NDArray[Any]) -> Pcm:
    if samples.dtype == np.int16:
        return np.ascontiguousarray(samples, dtype=np.int16)
    scaled = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0) * 32768.0
    return np.asarray(np.clip(np.rint(scaled), -32768, 32767), dtype=np.int16)


def _reason(exc: Exception) -> str:
    """libsndfile's own words, without the object it was given."""
    text = str(getattr(exc, "error_string", "") or exc).strip()
    return text.splitlines()[-1].rstrip(".") if text else type(exc).__name__
