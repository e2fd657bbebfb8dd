"""A live session and the real recogniser: offers are promoted, live words go to watchers only, drafts are forgotten."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from audio.endpoint import EndpointOptions
from audio.types import Pcm, Segment
from audio.wavio import frames
from ivr.asr import AsrPool
from ivr.call import CallCore, CallOptions
from ivr.clock import monotonic_ms
from ivr.drafts import DraftOptions
from ivr.embedding import sentence_model
from ivr.judge import load_pack
from ivr.listener import Listener, ListenerOptions
from ivr.meaning import shipped_head
from ivr.metrics import Metrics
from ivr.models import ResolvedModel
from ivr.pbx.direct import DirectControl
from ivr.prompts import load_catalogue
from ivr.session import CallSession, World
from ivr.types import JournalEvent, JournalRow, LiveEvent, LiveRow
from policies.engine import Engine
from policies.meaning import Embed, Meaning, Vectors
from policies.types import Side
from policies.verdict import UNREAD
from tests.ivr.calls import silence, speech

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
LISTENER = ListenerOptions(endpoint=EndpointOptions(offers=True))


@dataclass
class Watch:
    """Keeps rows and lets a test wait for one; ``rows`` is what a journal gets, ``lives`` what it does not."""

    rows: list[JournalRow] = field(default_factory=list)
    lives: list[LiveRow] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, row: JournalRow) -> None:
        self.rows.append(row)
        self.changed.set()

    def live(self, row: LiveRow) -> None:
        if row.event is not LiveEvent.SPEAKING:
            self.lives.append(row)
        self.changed.set()

    async def until(self, enough: Any) -> None:
        """Wait for rows, not for time."""
        async with asyncio.timeout(20):
            while not enough():
                self.changed.clear()
                await self.changed.wait()

    def words(self) -> list[str]:
        return [row.data["words"] for row in self.rows if row.event is JournalEvent.UTTERANCE]


@dataclass
class TapLeg:
    """A leg that only has a name: nothing is played on it here."""

    id: str = "caller-leg"
    rate_hz: int = 8_000

    def hang_up(self) -> None: ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(speech_model: ResolvedModel) -> AsyncIterator[AsrPool]:
    pool = AsrPool(speech_model)
    await pool.start()
    yield pool
    await pool.stop()


async def live_call(
    pool: AsrPool, watch: Watch, options: CallOptions, embed: Embed | None = None
) -> tuple[CallSession, TapLeg]:
    """A call under ``shadow``; with ``embed`` as its sentence model, if given."""
    pack = load_pack("shadow")
    if embed is not None:
        head, known = shipped_head()
        pack = replace(pack, meaning=Meaning(embed, head, pack.taught(), known))
    control = DirectControl(None, None, 1_000)
    world = World(
        asyncio.get_running_loop(), pool, load_catalogue(None), control, watch, Metrics("1"), transfer_to="299"
    )
    engine = Engine(pack)
    core = CallCore("ref", "201", engine, lambda side: Listener(LISTENER, side), options, monotonic_ms())
    session, leg = CallSession("call", core, world, lambda _: None), TapLeg()
    session.leg_up(leg, Side.CALLER)  # type: ignore[arg-type]
    return session, leg


def bare(text: str) -> list[str]:
    return re.sub(r"[^\w' ]", "", text.lower()).split()


def overlap_ms(watch: Watch) -> int:
    """How long caller and agent were both talking, by the journal."""
    spans: dict[str, list[tuple[int, int]]] = {"caller": [], "agent": []}
    for row in watch.rows:
        if row.event is JournalEvent.UTTERANCE:
            spans[str(row.data["side"])].append((row.data["start_ms"], row.data["end_ms"]))
    pairs = ((c, a) for c in spans["caller"] for a in spans["agent"])
    return sum(max(0, min(c[1], a[1]) - max(c[0], a[0])) for c, a in pairs)


def say(session: CallSession, leg: TapLeg, samples: Pcm, from_ms: int) -> int:
    """All at once, as frames that follow each other; returns where they end."""
    made = list(frames(samples, 8_000, start_ms=from_ms))
    for each in made:
        session.frames(leg, [each])  # type: ignore[arg-type]
    return made[-1].end_ms


async def test_session_shows_an_offers_words_and_counts_them_when_the_pause_is_over(pool: AsrPool) -> None:
    """One decoding for both; the journal holds the words once, and never what was only shown."""
    watch = Watch()
    session, leg = await live_call(pool, watch, CallOptions())
    decoded = pool.stats().decoded
    whole = speech("pat_billing")
    spoken = whole[: np.flatnonzero(np.abs(whole) > 300)[-1]]
    end_ms = say(session, leg, np.concatenate([spoken, silence(240)]), monotonic_ms())
    await watch.until(lambda: watch.lives)
    assert watch.words() == []
    shown = watch.lives[-1]
    assert (shown.event, shown.call_id, shown.data["side"]) == (LiveEvent.PARTIAL, "call", "caller")
    say(session, leg, silence(600), end_ms)
    await watch.until(watch.words)
    assert watch.words() == [shown.data["words"]] and "twice" in str(shown.data["words"])
    assert pool.stats().decoded == decoded + 1
    assert not [row for row in watch.rows if row.event not in set(JournalEvent)]


async def test_session_hears_two_people_who_talk_at_once_both_to_the_end(pool: AsrPool) -> None:
    """Two legs, frame by frame together, one recogniser: neither transcript lacks or gains a word."""
    watch = Watch()
    options = CallOptions(transcribe_agent=True, drafts=DraftOptions(every_ms=500))
    session, caller = await live_call(pool, watch, options)
    agent = TapLeg("agent-leg")
    session.leg_up(agent, Side.AGENT)  # type: ignore[arg-type]
    said = {caller.id: speech("pat_billing"), agent.id: speech("sam_refund")}
    began_ms, longest = monotonic_ms(), max(map(len, said.values()))
    streams = {
        leg.id: frames(
            np.concatenate([said[leg.id], silence((longest - len(said[leg.id])) // 8 + 800)]), 8_000, start_ms=began_ms
        )
        for leg in (caller, agent)
    }
    for both in zip(*streams.values(), strict=False):
        for leg, frame in zip((caller, agent), both, strict=True):
            session.frames(leg, [frame])  # type: ignore[arg-type]
    await watch.until(lambda: not session._asked and len(watch.words()) >= 2)
    for side, name in (("caller", "pat_billing"), ("agent", "sam_refund")):
        rows = [row.data for row in watch.rows if row.event is JournalEvent.UTTERANCE and row.data["side"] == side]
        alone = await pool.submit(Segment(speech(name), 8_000, 0, 0, 0))
        assert bare(" ".join(str(row["words"]) for row in rows)) == bare(alone.text)
    assert overlap_ms(watch) > 1_000


async def test_session_promotes_an_offer_that_is_still_being_decoded(pool: AsrPool) -> None:
    """Everything at once: the pause is over before the recogniser is."""
    watch = Watch()
    session, leg = await live_call(pool, watch, CallOptions())
    decoded = pool.stats().decoded
    say(session, leg, np.concatenate([speech("pat_insult"), silence(800)]), monotonic_ms())
    await watch.until(watch.words)
    assert "idiot" in " ".join(watch.words())
    assert watch.lives == [] and pool.stats().decoded == decoded + 1


async def test_session_forgets_the_draft_when_the_final_is_asked(pool: AsrPool) -> None:
    """The recogniser is not asked for what nobody will look at, and the words come once."""
    watch = Watch()
    options = CallOptions(drafts=DraftOptions(every_ms=1, tense_every_ms=1))
    session, leg = await live_call(pool, watch, options)
    end_ms = say(session, leg, speech("pat_billing"), monotonic_ms())
    assert len(session._asked) == 1
    say(session, leg, silence(900), end_ms)
    await watch.until(watch.words)
    assert session._asked == {} and len(watch.words()) == 1


async def test_session_keeps_the_order_of_words_while_one_is_slow_to_be_understood(pool: AsrPool) -> None:
    """The loop goes on meanwhile, later words are read at once, and all reach the policy as they were spoken."""
    slow, released, second = threading.Event(), threading.Event(), threading.Event()

    def embed(texts: Sequence[str]) -> Vectors:
        if "twice" in texts[0]:
            slow.set()
            assert released.wait(20)
        else:
            second.set()
        return sentence_model()(texts)

    watch = Watch()
    session, leg = await live_call(pool, watch, CallOptions(), embed)
    spoken = np.concatenate([speech("pat_billing"), silence(1_500), speech("pat_insult"), silence(1_500)])
    try:
        say(session, leg, spoken, monotonic_ms())
        assert await asyncio.to_thread(slow.wait, 20) and await asyncio.to_thread(second.wait, 20)
        assert watch.words() == []
    finally:
        released.set()
    await watch.until(lambda: len(watch.words()) >= 2)
    assert "twice" in str(watch.words()[0]) and "idiot" in str(watch.words()[-1])


async def test_session_judges_by_words_when_the_sentence_model_fails(pool: AsrPool) -> None:
    """The words still count, the verdict says what is missing, the log and the counter tell whoever runs it."""

    def embed(texts: Sequence[str]) -> Vectors:
        raise RuntimeError("a fault of the runtime")

    watch = Watch()
    session, leg = await live_call(pool, watch, CallOptions(), embed)
    with capture_logs() as logs:
        say(session, leg, np.concatenate([speech("pat_insult"), silence(1_500)]), monotonic_ms())
        await watch.until(lambda: [row for row in watch.rows if row.event is JournalEvent.STRIKE])
    [strike] = [row.data for row in watch.rows if row.event is JournalEvent.STRIKE]
    assert "idiot" in " ".join(watch.words()) and UNREAD in str(strike["why"])
    assert "the meaning could not be read ahead" in [each["event"] for each in logs]
    assert 'firmline_internal_errors_total{where="meaning"} 1.0' in session._world.metrics.render().decode()
