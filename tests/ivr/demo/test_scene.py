"""A scene on real phones: lines in turn, cues, a prompt in one ear only, a transfer obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from audio.wavio import read_wav
from ivr.demo.exchange import Exchange
from ivr.demo.phones import Phone
from ivr.demo.recordings import Hit, find_prompt
from ivr.demo.scene import Cast, Cues, SceneEvent, SceneEventKind, SceneResult, run_scene
from ivr.demo.speech import Script, line_pcm, load_script
from ivr.demo.stack import RATE_HZ, Stack

pytestmark = pytest.mark.sip

OpenTaps = Callable[[], Awaitable[dict[str, Phone]]]
STEPS = [
    {"say": "pat_insult"},
    {"wait": {"cue": "warning", "ceiling_ms": 5000}},
    {"wait_quiet": "pat"},
    {"say": "pat_insult_again"},
    {"wait": {"cue": "transferred", "ceiling_ms": 5000}},
    {"say": "pat_calmer"},
    {"pause_ms": 300},
]


def short_script(steps: list[dict[str, object]], transferred: bool = True) -> Script:
    """The demo's people and lines with another scene."""
    shipped = load_script().model_dump(exclude={"scenes"})
    expect = {"cues": ["warning"], "transferred": transferred}
    scene = {"title": "short", "caller": "pat", "expect": expect, "steps": steps}
    return Script.model_validate({**shipped, "scenes": {"short": scene}})


def hits(result: SceneResult, recording: str, line: str) -> list[Hit]:
    """Where ``line`` is in one of the scene's recordings."""
    path = result.recordings[recording]
    return find_prompt(read_wav(path.read_bytes(), str(path)).channels[0], line_pcm(line), RATE_HZ)


async def test_scene_abusive_is_warned_and_transferred(
    stack: Stack, exchange: Exchange, open_taps: OpenTaps, tmp_path: Path
) -> None:
    """The tap's prompt is in the caller's ear and in no other; the supervisor hears the caller, the agent is out."""
    taps = await open_taps()
    cast = await Cast.create(stack, exchange)
    cues = Cues()
    warning = "sam_bye"  # any sound that nobody in this scene says serves as the warning

    def firmline(event: SceneEvent) -> None:
        if event.kind is not SceneEventKind.SAID:
            return
        if event.text == load_script().lines["pat_insult"].text:
            stack.spawn(speak())
        elif event.text == load_script().lines["pat_insult_again"].text:
            stack.spawn(exchange.transfer(next(iter(exchange.calls)), "900"))

    async def speak() -> None:
        cues.resolve("warning")
        await taps["caller"].say(line_pcm(warning))

    async with asyncio.timeout(40):
        result = await run_scene(cast, "short", tmp_path, cues, firmline, short_script(STEPS))
    assert result.as_expected and result.transferred
    assert [spoken.line for spoken in result.spoken] == ["pat_insult", "pat_insult_again", "pat_calmer"]
    assert len(hits(result, "caller_heard", warning)) == 1
    assert hits(result, "agent_heard", warning) == hits(result, "supervisor_heard", warning) == []
    assert len(hits(result, "agent_heard", "pat_insult")) == 1
    assert hits(result, "agent_heard", "pat_calmer") == []
    assert len(hits(result, "supervisor_heard", "pat_calmer")) == 1
    # Timeline: the caller's second line began after the warning had ended in the caller's ear.
    (heard,) = hits(result, "caller_heard", warning)
    begun = result.started_ms["caller_heard"]
    assert begun is not None
    assert result.spoken[1].start_ms >= begun + heard.offset_ms + len(line_pcm(warning)) * 1000 // RATE_HZ
    assert exchange.calls == {}


async def test_scene_without_firmline_ends_and_says_what_was_missing(
    stack: Stack, exchange: Exchange, tmp_path: Path
) -> None:
    """No cue ever comes: the scene ends at its ceilings, not as expected, with its recordings; then plays again."""
    cast = await Cast.create(stack, exchange)
    steps: list[dict[str, object]] = [{"say": "pat_insult"}, {"wait": {"cue": "warning", "ceiling_ms": 200}}]
    events: list[SceneEvent] = []
    for _ in range(2):
        result = await run_scene(cast, "short", tmp_path, Cues(), events.append, short_script(steps, False))
        assert not result.as_expected and not result.transferred and result.cues == {"warning": None}
        assert len(hits(result, "agent_heard", "pat_insult")) == 1
    assert [e.kind for e in events].count(SceneEventKind.CUE_MISSING) == 2
    assert result.recordings["supervisor_heard"].is_file()


def test_script_shipped_has_every_line_as_telephone_speech() -> None:
    """Each line of the script is there as an 8 kHz mono 16-bit WAV of a sentence's length."""
    for name in load_script().lines:
        assert 1.0 < len(line_pcm(name)) / RATE_HZ < 8.0


@pytest.mark.parametrize(
    "step", [{}, {"say": "nobody_says_this"}, {"say": "sam_bye", "pause_ms": 10}, {"dance": 1}, {"pause_ms": 0}]
)
def test_script_bad_step_is_refused(step: dict[str, object]) -> None:
    """A step that is none, two, unknown or out of range is an error when the script is loaded."""
    with pytest.raises(ValueError, match=r"step|line|Extra|greater"):
        short_script([step])
