"""G.711 tables against the reference implementation and against the physics they are meant for."""

from __future__ import annotations

import audioop

import numpy as np
import pytest

from audio.g711 import SILENCE, Law, decode, encode

REFERENCE = {
    Law.PCMU: (audioop.ulaw2lin, audioop.lin2ulaw),
    Law.PCMA: (audioop.alaw2lin, audioop.lin2alaw),
}


@pytest.mark.parametrize("law", Law)
def test_decode_all_256_codes_agrees_with_the_reference(law: Law) -> None:
    """Every code expands to the same full-scale 16-bit sample as in Sun's g711.c."""
    codes = bytes(range(256))
    assert decode(codes, law).tobytes() == REFERENCE[law][0](codes, 2)


@pytest.mark.parametrize("law", Law)
def test_encode_all_65536_samples_agrees_with_the_reference(law: Law) -> None:
    """Every 16-bit sample compresses to the same code as in Sun's g711.c."""
    samples = np.arange(-32768, 32768).astype(np.int16)
    assert encode(samples, law) == REFERENCE[law][1](samples.tobytes(), 2)


@pytest.mark.parametrize("law", Law)
def test_encode_after_decode_gives_every_code_back(law: Law) -> None:
    """A second pass through the codec costs nothing: all codes survive (mu-law's two zeros fold into one)."""
    codes = bytes(range(256))
    expected = bytes(0xFF if law is Law.PCMU and code == 0x7F else code for code in codes)
    assert encode(decode(codes, law), law) == expected


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("level_dbov", [-3, -10, -20, -26, -30])
def test_round_trip_keeps_the_signal_to_noise_ratio_of_g712(law: Law, level_dbov: int) -> None:
    """A 1,004 Hz tone from loud to quiet comes back with at least the 33 dB that ITU-T G.712 asks of a codec."""
    t = np.arange(16_000) / 8000
    tone = 32767 * 10 ** (level_dbov / 20) * np.sin(2 * np.pi * 1004 * t)
    back = decode(encode(tone.astype(np.int16), law), law).astype(float)
    snr_db = 10 * np.log10(np.sum(tone**2) / np.sum((tone - back) ** 2))
    assert snr_db > 33


@pytest.mark.parametrize("law", Law)
def test_silence_code_is_the_nearest_level_to_zero(law: Law) -> None:
    """The filler octet is what a zero sample encodes to."""
    assert encode(np.zeros(1, np.int16), law) == bytes([SILENCE[law]])


@pytest.mark.parametrize("law", Law)
def test_encode_of_a_strided_view_reads_the_right_samples(law: Law) -> None:
    """A channel cut out of interleaved stereo encodes like its own copy."""
    stereo = np.arange(-400, 400, dtype=np.int16).reshape(-1, 2)
    assert encode(stereo[:, 1], law) == encode(stereo[:, 1].copy(), law)


@pytest.mark.parametrize("law", Law)
def test_codec_of_nothing_is_nothing(law: Law) -> None:
    """An empty payload and an empty prompt are not errors."""
    assert decode(b"", law).shape == (0,)
    assert encode(np.empty(0, np.int16), law) == b""
