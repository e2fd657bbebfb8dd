"""The prompt catalogue: what Firmline can say, as samples that are ready to be sent.

Every prompt is sound before the first call: nothing is synthesised, resampled or read from a disk while somebody waits.
Takes plain data and WAV bytes; whoever reads files (``ivr.prompts``) hands over their contents.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from audio.loudness import FULL_SCALE, active_speech_level_dbov
from audio.resample import resample
from audio.types import PTIME_MS, Pcm
from audio.wavio import Recording

RATES_HZ = (8000, 16000)
"""Clock rates of the codecs that a leg can have: G.711 and its wideband neighbours."""

DEFAULT_NAMES = (
    "notice",
    "gentle_request",
    "warning",
    "final_warning",
    "closing_transfer",
    "closing_hangup",
    "closing_menu",
    "hold_a_minute",
    "crisis_reassurance",
    "calming",
    "menu_options",
    "menu_invalid",
    "menu_no_number",
    "menu_carry_on",
    "menu_call_back",
    "menu_supervisor",
    "menu_complaint",
    "menu_nobody",
)
"""Prompts that the shipped packs and the call session may name; the shipped catalogue holds all of them."""

PLACEHOLDERS = ("agent", "company", "followup")
"""What a text may leave open, filled in when it is rendered."""

MAX_DURATION_MS = 60_000
"""A longer prompt is a mistake (hold music, a whole announcement): the caller could not be answered meanwhile."""
SILENCE_DBOV = -50.0
"""A recording whose loudest 20 ms are under this is no audible voice on a telephone line."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_BRACED = re.compile(r"\{([^{}]*)\}")


class BadPrompt(ValueError):
    """A prompt that cannot be used; the text names it and says why in one sentence."""


class UnknownPrompt(KeyError):
    """No such prompt in the catalogue; the text names the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """What the catalogue's text says of one prompt, placeholders still open."""

    name: str
    text: str
    purpose: str = ""
    side: str = "caller"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt ready to play. ``text`` is what is heard; empty when a recording came without its words."""

    name: str
    text: str
    samples_by_rate: Mapping[int, Pcm]
    purpose: str = ""
    side: str = "caller"
    source: str = ""
    """Where the sound came from, for people."""

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds, rounded up so that a timer set by it never cuts the last word."""
        rate_hz = min(self.samples_by_rate)
        return -(-len(self.samples_by_rate[rate_hz]) * 1000 // rate_hz)

    @property
    def level_dbov(self) -> float:
        """Active speech level (ITU-T P.56); measured on each call, so not for the call path."""
        rate_hz = min(self.samples_by_rate)
        return active_speech_level_dbov(self.samples_by_rate[rate_hz], rate_hz)


class Catalogue(Mapping[str, Prompt]):
    """Prompts by name. Immutable: a new set of prompts is a new catalogue, and calls under way keep theirs."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        self._prompts = {prompt.name: prompt for prompt in prompts}

    def __getitem__(self, name: str) -> Prompt:
        """The prompt called ``name``.

        Raises:
            UnknownPrompt: a ``KeyError`` that suggests the nearest name.
        """
        try:
            return self._prompts[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._prompts, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; there are: {', '.join(self._prompts)}"
            raise UnknownPrompt(f"no prompt `{name}`{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def samples(self, name: str, rate_hz: int) -> Pcm:
        """Samples of a prompt, shape ``(n,)`` and read-only, at 8 or 16 kHz.

        Raises:
            UnknownPrompt: no such prompt.
            ValueError: another rate; resampling has no place on the call path.
        """
        by_rate = self[name].samples_by_rate
        if rate_hz not in by_rate:
            raise ValueError(f"prompts are kept at {' and '.join(map(str, by_rate))} Hz, not at {rate_hz} Hz")
        return by_rate[rate_hz]

    def duration_ms(self, name: str) -> int:
        """Length of a prompt in milliseconds.

        Raises:
            UnknownPrompt: no such prompt.
        """
        return self[name].duration_ms

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that the catalogue lacks, each once, in the order given."""
        return [name for name in dict.fromkeys(names) if name not in self._prompts]

    def overlaid(self, prompts: Iterable[Prompt]) -> Catalogue:
        """This catalogue with ``prompts`` in place of, or besides, its own."""
        return Catalogue((self._prompts | {prompt.name: prompt for prompt in prompts}).values())


def build_prompt(entry: PromptEntry, recordings: Mapping[int, Recording], source: str = "") -> Prompt:
    """A prompt from its recordings by rate (any rates; what is lacking of 8 and 16 kHz is resampled from the best).

    Raises:
        BadPrompt: a bad name, no recording, a stereo one, over a minute, or nothing audible in it.
    """
    if not _NAME.fullmatch(entry.name):
        raise BadPrompt(f"prompt `{entry.name}`: a name is lower-case letters, digits and underscores")
    if not recordings:
        raise BadPrompt(f"prompt `{entry.name}`: there is no sound for it")
    for recording in recordings.values():
        _check_recording(entry.name, recording)
    best_hz = max(recordings)
    samples_by_rate: dict[int, Pcm] = {}
    for rate_hz in RATES_HZ:
        held = recordings.get(rate_hz)
        samples = held.channels[0] if held else resample(recordings[best_hz].channels[0], best_hz, rate_hz)
        samples = samples.copy()
        # Every call shares these samples: one that wrote to them would change what the others hear.
        samples.flags.writeable = False
        samples_by_rate[rate_hz] = samples
    prompt = Prompt(entry.name, entry.text, MappingProxyType(samples_by_rate), entry.purpose, entry.side, source)
    if _loudest_dbov(samples_by_rate[RATES_HZ[0]], RATES_HZ[0]) < SILENCE_DBOV:
        raise BadPrompt(f"prompt `{entry.name}`: the recording holds nothing audible")
    return prompt


def _loudest_dbov(samples: Pcm, rate_hz: int) -> float:
    """Power of the loudest 20 ms: quicker than the active speech level, and enough to know silence."""
    size = rate_hz * PTIME_MS // 1000
    whole = np.pad(samples, (0, -len(samples) % size)).astype(np.float64) / FULL_SCALE
    return 10 * math.log10(float(np.max(np.mean(whole.reshape(-1, size) ** 2, axis=1))) + 1e-12)


def _check_recording(name: str, recording: Recording) -> None:
    if len(recording.channels) != 1:
        raise BadPrompt(f"prompt `{name}`: the recording is stereo; a prompt must be mono")
    if recording.duration_ms > MAX_DURATION_MS:
        raise BadPrompt(
            f"prompt `{name}`: it lasts {recording.duration_ms / 1000:.0f} s; at most {MAX_DURATION_MS // 1000} s"
        )


def text_problem(text: str) -> str | None:
    """What is wrong with a prompt's text, in one clause, or ``None``: emptiness, a stray brace, an open name."""
    if not text.strip():
        return "the text is empty"
    for name in _BRACED.findall(text):
        if name not in PLACEHOLDERS:
            near = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
            hint = f"; did you mean `{{{near[0]}}}`?" if near else ""
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            return f"unknown placeholder `{{{name}}}`{hint} (known: {known})"
    if re.search(r"[{}]", _BRACED.sub("", text)):
        return "a single brace; write a placeholder as {agent}"
    return None


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text as it will be spoken: placeholders filled, white space made single.

    Raises:
        ValueError: ``text_problem`` finds something, or a placeholder has no value.
    """
    problem = text_problem(text)
    if problem:
        raise ValueError(problem)
    missing = [name for name in _BRACED.findall(text) if not values.get(name, "").strip()]
    if missing:
        raise ValueError(f"no value for the placeholder {{{missing[0]}}}")
    return " ".join(_BRACED.sub(lambda found: values[found[1]], text).split())
