"""G.711 mu-law and A-law as numpy look-up tables, full 16-bit scale both ways.

ITU-T G.711 (11/88) works on 14-bit (mu) and 13-bit (A) words; here they sit in the top bits of an int16, so that a
decoded full-scale sine is full scale. The tables are computed once at import from the segment rule of the
Recommendation and agree code for code with its reference implementation (Sun's ``g711.c``).
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from audio.types import Pcm

RATE_HZ = 8000

Codes = npt.NDArray[np.uint8]

_MU_BIAS = 0x21
_MU_CLIP = 8159
_A_TOGGLE = 0x55
"""Even bits are inverted on the line (G.711 section 3.1, note 2 to table 1a)."""


class Law(StrEnum):
    """The two companding laws by their RTP encoding names (RFC 3551 section 4.5.14)."""

    PCMU = "PCMU"
    PCMA = "PCMA"


SILENCE: dict[Law, int] = {Law.PCMU: 0xFF, Law.PCMA: 0xD5}
"""The code of the zero level: what fills silence in a packet."""


def _mu_decode_table() -> Pcm:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    samples: Pcm = np.where(code & 0x80, 0x84 - magnitude, magnitude - 0x84).astype(np.int16)
    return samples


def _a_decode_table() -> Pcm:
    code = np.arange(256) ^ _A_TOGGLE
    segment = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + np.where(segment == 0, 8, 0x108)
    magnitude = step << np.maximum(segment - 1, 0)
    samples: Pcm = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return samples


def _every_int16() -> npt.NDArray[np.int64]:
    """All sample values in the order of their unsigned 16-bit pattern, which is how the encode tables are indexed."""
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)


def _mu_encode_table() -> Codes:
    word = _every_int16() >> 2
    magnitude = np.minimum(np.abs(word), _MU_CLIP) + _MU_BIAS
    segment = np.searchsorted([0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF, 0x1FFF], magnitude)
    code = np.minimum((segment << 4) | ((magnitude >> (segment + 1)) & 0x0F), 0x7F)  # the clip level ends segment 8
    codes: Codes = (code ^ np.where(word < 0, 0x7F, 0xFF)).astype(np.uint8)
    return codes


def _a_encode_table() -> Codes:
    word = _every_int16() >> 3
    magnitude = np.where(word < 0, -word - 1, word)
    segment = np.searchsorted([0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF], magnitude)
    code = (segment << 4) | ((magnitude >> np.maximum(segment, 1)) & 0x0F)
    codes: Codes = (code ^ np.where(word < 0, _A_TOGGLE, _A_TOGGLE | 0x80)).astype(np.uint8)
    return codes


_DECODE: dict[Law, Pcm] = {Law.PCMU: _mu_decode_table(), Law.PCMA: _a_decode_table()}
_ENCODE: dict[Law, Codes] = {Law.PCMU: _mu_encode_table(), Law.PCMA: _a_encode_table()}


def decode(payload: bytes | bytearray | memoryview, law: Law) -> Pcm:
    """Expand G.711 octets to int16 samples, shape ``(len(payload),)``."""
    return _DECODE[law][np.frombuffer(payload, dtype=np.uint8)]


def encode(samples: Pcm, law: Law) -> bytes:
    """Compress int16 samples of shape ``(n,)`` to ``n`` G.711 octets."""
    return _ENCODE[law][np.ascontiguousarray(samples, dtype=np.int16).view(np.uint16)].tobytes()
