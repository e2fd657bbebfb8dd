"""From packets in order to 20 ms frames on our clock.

A frame's ``t_ms`` is the time its first sample was spoken, taken as arrival less duration: no frame ends in the future.
RTP time stamps give the spacing, arrival the anchor; the least transit of each window shows how far the sender's clock
has crept from ours and the anchor follows it (a minimum filter, as in RFC 5905 section 10, which jitter cannot fool).
"""

from __future__ import annotations

import numpy as np

from audio.types import PTIME_MS, AudioFrame, Pcm
from ivr.rtp_packet import timestamp_delta

RATE_HZ = 8000
FRAME_SAMPLES = RATE_HZ * PTIME_MS // 1000
NS_PER_SAMPLE = 1_000_000_000 // RATE_HZ

CONCEAL_MAX_SAMPLES = 5 * FRAME_SAMPLES
"""Longer losses are a gap: nobody can make up more than 100 ms of speech."""

AHEAD_MAX_NS = 200_000_000
BEHIND_MAX_NS = 2_000_000_000
"""A time stamp that puts audio further in the future, or further in the past, than this is a jump: re-anchor."""

WINDOW_NS = 500_000_000
WINDOW_PACKETS = 5
JUMP_NS = 60_000_000
"""A whole window at least this late is a sender that paused its time stamps: catch up in one step."""

SLEW_FORWARD_NS = 5_000_000
SLEW_BACK_NS = 15_000_000
"""Most that one window may move the anchor: 10,000 ppm forward; back by less than a frame, so order is kept."""

_FADE = (0.8, 0.5, 0.3, 0.15, 0.05)


class FrameAssembler:
    """Cuts packets of any ptime into frames; conceals short losses; the counters only grow."""

    def __init__(self) -> None:
        self.resyncs: int = 0
        self.concealed: int = 0
        self._expected: int | None = None
        self._lost = 0
        self._cursor_ns = 0
        self._last_t_ms = 0
        self._partial: Pcm = np.zeros(FRAME_SAMPLES, np.int16)
        self._filled = self._made_up = 0
        self._partial_ns = 0
        self._last: Pcm = np.zeros(FRAME_SAMPLES, np.int16)
        self._window_end_ns = self._window_packets = 0
        self._window_least_ns = 0

    def restart_at_next(self) -> None:
        """The next packet's time stamp has nothing to do with those before it (new SSRC, new sequence)."""
        self._expected = None

    def note_lost(self, packets: int) -> None:
        """Packets went missing before one that carries no audio: what follows next may be a loss, not a pause."""
        self._lost += packets

    def add(self, timestamp: int, samples: Pcm, arrival_ns: int, lost: int) -> list[AudioFrame]:
        """Take one packet in order: ``lost`` packets are missing before it. Returns the frames it completes."""
        frames: list[AudioFrame] = []
        begins_ns = arrival_ns - len(samples) * NS_PER_SAMPLE
        lost, self._lost = lost + self._lost, 0
        if self._expected is None:
            self._restart(begins_ns, frames)
        elif gap := timestamp_delta(timestamp, self._expected):
            self._bridge(gap, begins_ns, lost, frames)
        if not -AHEAD_MAX_NS <= begins_ns - self._cursor_ns <= BEHIND_MAX_NS:
            self.resyncs += 1
            self._restart(begins_ns, frames)
        self._follow_clock(begins_ns - self._cursor_ns, arrival_ns)
        self._append(samples, False, frames)
        self._expected = (timestamp + len(samples)) & 0xFFFFFFFF
        return frames

    def _bridge(self, gap: int, begins_ns: int, lost: int, frames: list[AudioFrame]) -> None:
        resume_ns = self._cursor_ns + gap * NS_PER_SAMPLE
        if gap < 0 or begins_ns - resume_ns < -AHEAD_MAX_NS:
            self.resyncs += 1
            self._restart(begins_ns, frames)
        elif lost and gap <= CONCEAL_MAX_SAMPLES:
            self._append(self._made_up_samples(gap), True, frames)
        else:
            self._close_partial(gap, frames)
            self._cursor_ns = resume_ns

    def _restart(self, begins_ns: int, frames: list[AudioFrame]) -> None:
        self._close_partial(FRAME_SAMPLES, frames)
        self._cursor_ns = begins_ns
        self._window_packets = 0

    def _close_partial(self, gap: int, frames: list[AudioFrame]) -> None:
        """Silence completes a frame that was cut off, as far as the gap allows."""
        if self._filled:
            self._append(np.zeros(min(gap, FRAME_SAMPLES - self._filled), np.int16), True, frames)

    def _made_up_samples(self, count: int) -> Pcm:
        fading = [(self._last * gain).astype(np.int16) for gain in _FADE[: -(-count // FRAME_SAMPLES)]]
        return np.concatenate(fading)[:count]

    def _follow_clock(self, behind_ns: int, arrival_ns: int) -> None:
        if self._window_packets == 0:
            self._window_end_ns, self._window_least_ns = arrival_ns + WINDOW_NS, behind_ns
        self._window_least_ns = min(self._window_least_ns, behind_ns)
        self._window_packets += 1
        if arrival_ns < self._window_end_ns or self._window_packets < WINDOW_PACKETS:
            return
        least, self._window_packets = self._window_least_ns, 0
        if least > JUMP_NS:
            self.resyncs += 1
            self._cursor_ns += least
        else:
            self._cursor_ns += max(-SLEW_BACK_NS, min(SLEW_FORWARD_NS, least))

    def _append(self, samples: Pcm, made_up: bool, frames: list[AudioFrame]) -> None:
        total, at = len(samples), 0
        while at < total:
            if self._filled == 0:
                self._partial_ns = self._cursor_ns
                if total - at >= FRAME_SAMPLES:
                    self._emit(samples[at : at + FRAME_SAMPLES], made_up, frames)
                    at += FRAME_SAMPLES
                    self._cursor_ns += FRAME_SAMPLES * NS_PER_SAMPLE
                    continue
            count = min(total - at, FRAME_SAMPLES - self._filled)
            self._partial[self._filled : self._filled + count] = samples[at : at + count]
            at += count
            self._filled += count
            self._made_up += count if made_up else 0
            self._cursor_ns += count * NS_PER_SAMPLE
            if self._filled == FRAME_SAMPLES:
                mostly_made_up = self._made_up * 2 >= FRAME_SAMPLES
                self._filled = self._made_up = 0
                self._emit(self._partial.copy(), mostly_made_up, frames)

    def _emit(self, samples: Pcm, made_up: bool, frames: list[AudioFrame]) -> None:
        self._last_t_ms = max(self._last_t_ms, self._partial_ns // 1_000_000)
        if made_up:
            self.concealed += 1
        else:
            self._last = samples
        frames.append(AudioFrame(self._last_t_ms, RATE_HZ, samples, made_up))
