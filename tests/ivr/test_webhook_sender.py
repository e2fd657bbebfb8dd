"""Webhooks to a real receiver that verifies them with the standardwebhooks library, and what can go wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from ivr import clock
from ivr.database import Database
from ivr.types import JournalEvent, JournalRow
from ivr.webhook_events import HOOK_EVENTS
from ivr.webhook_outbox import Letter, Outbox
from ivr.webhook_sender import DeliveryOptions, Hook, WebhookSender, backoff_ms
from ivr.webhooks import sign
from tests.ivr.receiver import SECRET, Receiver
from tests.ivr.service import eventually, free_tcp_port
from tests.ivr.test_commands import firmline

QUICK = DeliveryOptions(timeout_ms=2_000, retry_first_ms=40, retry_max_ms=200)
EVERYTHING = frozenset(HOOK_EVENTS)


def hook(url: str, name: str = "crm", **changes: Any) -> Hook:
    return Hook(**{"name": name, "url": url, "secret": SECRET, "events": EVERYTHING, **changes})


def row(event: JournalEvent, n: int = 0, **data: object) -> JournalRow:
    return JournalRow("c1", event, clock.wall_iso(), n, data)


def rung(n: int = 0) -> JournalRow:
    return row(JournalEvent.RUNG, n, to="warned", cause="prompt_heard", why="the caller insulted you")


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    database = Database(tmp_path / "journal.db")
    database.open()
    database.close()
    return Outbox(database)


@asynccontextmanager
async def sending(outbox: Outbox, *hooks: Hook, options: DeliveryOptions = QUICK) -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(hooks, outbox, options)
    sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


def a_call(sender: WebhookSender) -> None:
    """A call from start to end: a safeguard phrase, a strike, a step, an ending."""
    sender.hear(row(JournalEvent.CALL_STARTED, call_ref="17.4", agent="201", pack="standard@1"))
    sender.hear(row(JournalEvent.SIGNAL, 1, category="safeguard", text="call four one double one two", words=["x"]))
    sender.hear(row(JournalEvent.SIGNAL, 2, category="safeguard", text="again"))
    sender.hear(
        row(JournalEvent.STRIKE, 3, category="insult", text="you useless idiot", why=['the caller said "idiot"'])
    )
    sender.hear(rung(4))
    sender.hear(row(JournalEvent.ACTION_DONE, 5, action="transfer", pack="standard@1"))
    sender.hear(row(JournalEvent.CALL_ENDED, 9_000, why="firmline: transfer"))


async def test_sender_a_call_arrives_verified_in_order_and_without_words(outbox: Outbox) -> None:
    """The library of the standard verifies each; the summary says what happened; nobody's words are in it."""
    async with Receiver() as receiver, sending(outbox, hook(receiver.url)) as sender:
        a_call(sender)
        await receiver.until(5)
    kinds = [message["type"] for message in receiver.got]
    assert kinds[0] == "call.safeguard" and sorted(kinds) == sorted(set(kinds))
    assert kinds[1:] == ["call.rung", "call.action_done", "call.incident", "call.ended"]
    assert "idiot" not in str(receiver.got) and "four one" not in str(receiver.got)
    incident = receiver.got[3]["data"]
    assert incident["call_ref"] == "17.4" and incident["ended_by"] == "transfer" and incident["safeguard"] is True
    assert incident["strikes"] == {"insult": 1} and incident["highest_rung"] == "warned" and incident["warnings"] == 1
    assert receiver.tries[0]["user-agent"].startswith("Firmline/")


async def test_sender_words_are_sent_only_where_asked_and_digits_never(outbox: Outbox) -> None:
    """Two endpoints, one with words: it reads them, numbers masked; each gets only the events it named."""
    async with Receiver() as plain, Receiver() as wordy:
        wanted: frozenset[Any] = frozenset({"safeguard"})
        hooks = hook(plain.url, "plain", events=wanted), hook(wordy.url, "wordy", events=wanted, words=True)
        async with sending(outbox, *hooks) as sender:
            a_call(sender)
            await asyncio.gather(plain.until(1), wordy.until(1))
    assert "text" not in plain.got[0]["data"] and wordy.got[0]["data"]["text"] == "call [number]"
    assert len(plain.got) == len(wordy.got) == 1


async def test_sender_failing_receiver_gets_the_same_id_again_with_a_fresh_signature(outbox: Outbox) -> None:
    """500, 429, then 200: three tries of one id, each verified on its own; delivered once and gone from the outbox."""
    async with Receiver(500, 429, 200) as receiver, sending(outbox, hook(receiver.url)) as sender:
        sender.hear(rung())
        await receiver.until(1)
        assert sender.totals()["failed"] == 2
        await eventually(lambda: _settled(sender))
    assert len({each["webhook-id"] for each in receiver.tries}) == 1 and len(receiver.tries) == 3
    assert outbox.letters() == [] and sender.totals()["delivered"] == 1 and sender.problem() is None


async def _settled(sender: WebhookSender) -> bool:
    return not any(sender.waiting().values())


async def test_sender_hanging_receiver_delays_neither_the_other_nor_the_loop(outbox: Outbox) -> None:
    """One endpoint never answers; forty messages reach the other meanwhile, and all of the first's still wait."""
    options = DeliveryOptions(timeout_ms=30_000)
    async with Receiver(0) as dead, Receiver() as live:
        async with sending(outbox, hook(dead.url, "dead"), hook(live.url, "live"), options=options) as sender:
            for n in range(40):
                sender.hear(rung(n))
            await asyncio.gather(live.until(40), dead.until(1, tries=True))
            assert [message["data"]["t_ms"] for message in live.got] == list(range(40))
            assert sender.waiting()["dead"] == 40 and len(dead.tries) == 1


async def test_sender_what_was_not_delivered_survives_a_restart(outbox: Outbox) -> None:
    """Nobody listens; the process stops; the next one delivers everything in order, though its next try was far off."""
    port = free_tcp_port()
    target = hook(f"http://127.0.0.1:{port}/hook")
    async with sending(outbox, target, options=DeliveryOptions(retry_first_ms=600_000)) as sender:
        for n in range(5):
            sender.hear(rung(n))
        await eventually(lambda: _problem(sender))
    assert len(outbox.letters()) == 5
    async with Receiver(port=port) as receiver, sending(outbox, target) as sender:
        await receiver.until(5)
    assert [message["data"]["t_ms"] for message in receiver.got] == [0, 1, 2, 3, 4]


async def _problem(sender: WebhookSender) -> str | None:
    return sender.problem()


async def test_sender_receiver_that_is_gone_or_too_late_leaves_dead_letters_that_can_be_resent(outbox: Outbox) -> None:
    """410 and an age of no time: given up, told, listed; resent they arrive."""
    async with Receiver(410) as gone, sending(outbox, hook(gone.url)) as sender:
        sender.hear(rung(1))
        await gone.until(1, tries=True)
        await eventually(lambda: _settled(sender))
        assert sender.totals()["dead"] == 1
    impatient = DeliveryOptions(retry_first_ms=40, retry_max_ms=100, max_age_ms=300)
    async with Receiver(503) as late, sending(outbox, hook(late.url), options=impatient) as sender:
        sender.hear(rung(2))
        await late.until(1, tries=True)
        await eventually(lambda: _settled(sender))
    letters = outbox.letters()
    assert [letter.dead for letter in letters] == [True, True] and letters[0].error == "answered 410"
    assert outbox.resend() == 2
    async with Receiver() as receiver, sending(outbox, hook(receiver.url)):
        await receiver.until(2)


async def test_sender_redirect_is_not_followed(outbox: Outbox) -> None:
    """A receiver cannot send our messages to an address that ops did not write down."""
    async with Receiver(302, 302, 200) as receiver, sending(outbox, hook(receiver.url)) as sender:
        sender.hear(rung())
        await receiver.until(1)
    assert [each["path"] for each in receiver.tries] == ["/hook"] * 3


async def test_sender_full_outbox_drops_the_newest_and_says_so(outbox: Outbox) -> None:
    """Bounded per endpoint: the eleventh is dropped and counted, the first ten wait."""
    options = DeliveryOptions(retry_first_ms=600_000, max_waiting=10)
    async with sending(outbox, hook(f"http://127.0.0.1:{free_tcp_port()}/"), options=options) as sender:
        for n in range(15):
            sender.hear(rung(n))
        assert sender.totals()["dropped"] == 5 and "full" in str(sender.problem())
        assert sender.waiting() == {"crm": 10}
    assert len(outbox.letters()) == 10


async def test_sender_outbox_that_cannot_be_written_waits_and_delivers_later(outbox: Outbox, tmp_path: Path) -> None:
    """The file is away for a while: the message waits in memory, nothing raises, and it arrives once it is back."""
    aside = tmp_path / "aside.db"
    async with Receiver() as receiver:
        os.rename(tmp_path / "journal.db", aside)
        async with sending(outbox, hook(receiver.url)) as sender:
            sender.hear(rung())
            os.rename(aside, tmp_path / "journal.db")
            await receiver.until(1)


async def test_sender_endpoints_changed_while_running_take_over_what_waits(outbox: Outbox) -> None:
    """The address behind a name changes: what waited goes to the new one; a name taken away is told nothing more."""
    nowhere = hook(f"http://127.0.0.1:{free_tcp_port()}/")
    async with Receiver() as receiver, sending(outbox, nowhere, options=DeliveryOptions()) as sender:
        sender.hear(rung(1))
        await eventually(lambda: _problem(sender))
        sender.use([hook(receiver.url)], QUICK)
        await receiver.until(1)
        await eventually(lambda: _settled(sender))
        sender.use([], QUICK)
        sender.hear(rung(2))
        assert sender.waiting() == {}
    assert len(receiver.got) == 1 and outbox.letters() == []


def test_outbox_urgent_letters_go_first_and_old_ones_of_nobody_are_buried(outbox: Outbox) -> None:
    """A safeguard message overtakes what waits; a letter for a name that is gone ages out all the same."""
    outbox.add([Letter("a", "rung", "{}", 1_000), Letter("a", "safeguard", "{}", 1_001, urgent=True)])
    first = outbox.next_of("a", 2_000)
    assert isinstance(first, Letter) and first.urgent
    outbox.delivered(first.message_id)
    assert outbox.prune(10_000, 5_000) == 1 and outbox.next_of("a", 10_000) is None
    (dead,) = outbox.letters()
    assert dead.dead and dead.error == "no endpoint of that name takes it"
    outbox.prune(8 * 86_400_000, 5_000)
    assert outbox.letters() == []


def test_backoff_grows_threefold_with_a_spread_and_a_bound() -> None:
    """5 s, 15 s, 45 s, ... half an hour, each within a fifth."""
    options = DeliveryOptions()
    assert [backoff_ms(options, n, 0.5) for n in (1, 2, 3, 50)] == [5_000, 15_000, 45_000, 1_800_000]
    assert (backoff_ms(options, 1, 0.0), backoff_ms(options, 1, 1.0)) == (4_000, 6_000)


def test_signature_with_another_secret_is_refused_by_the_library() -> None:
    """The check in these tests can fail."""
    headers = sign(SECRET, "msg_1", int(clock.wall_s()), b'{"a": 1}')
    assert Webhook(SECRET).verify(b'{"a": 1}', headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b'{"a": 2}', headers)


async def test_webhooks_command_tests_each_endpoint_and_lists_dead_letters(tmp_path: Path) -> None:
    """`webhooks test` reaches the receiver, signed, and ends 1 for one that refuses; `list` shows what was given up."""
    async with Receiver() as receiver, Receiver(401) as other:
        endpoints = [{"name": n, "url": r.url, "secret": SECRET} for n, r in (("good", receiver), ("bad", other))]
        config = {"webhooks": {"endpoints": endpoints}, "journal": {"path": str(tmp_path / "journal.db")}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        good = await asyncio.to_thread(firmline, "webhooks", "test", "--name", "good", cwd=tmp_path)
        both = await asyncio.to_thread(firmline, "webhooks", "test", cwd=tmp_path)
    assert (good.returncode, good.stdout.split()) == (0, ["good", "ok", "answered", "200"])
    assert both.returncode == 1 and "bad          FAULT answered 401" in both.stdout and "secret" in both.stderr
    assert {message["type"] for message in receiver.got} == {"firmline.test"} and len(receiver.got) == 2
    database = Database(tmp_path / "journal.db")
    database.open()
    Outbox(database).add([Letter("good", "rung", "{}", 1_000, dead=True, error="answered 410")])
    listed = await asyncio.to_thread(firmline, "webhooks", "list", cwd=tmp_path)
    assert "dead" in listed.stdout and "answered 410" in listed.stdout
