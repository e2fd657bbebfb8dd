"""What is asked of an Asterisk before anything is done: may we, does it hear us, is anybody there?

Touches no call and no tap, so ``firmline check`` may ask beside a running service.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from ivr.errors import PbxError
from ivr.facts import CallFacts, phone_number, queue_name
from ivr.pbx.ami import AmiClient, AmiMessage, AmiOptions
from ivr.pbx.guarded import MarkOptions
from ivr.pbx.phone_keys import PhoneKeyOptions

NEEDED_ACTIONS = {
    "Originate": "originate",
    "Redirect": "call",
    "Hangup": "call",
    "Status": "call",
    "Getvar": "call",
    "ExtensionState": "call",
}
"""Manager actions we use and the ``write=`` class that allows each."""
_NO_EXTENSION = re.compile(r'^$|[\s,()"\\]')
_NOBODY_THERE = frozenset({"UNAVAILABLE"})
_IN_CALL = frozenset({"INUSE", "BUSY", "RINGING", "RINGINUSE", "ONHOLD"})
_STATE_BUSY, _STATE_UNAVAILABLE = 2, 4
"""Values of ``ExtensionState``'s Status; -1 and -2 say that there is no hint."""


@dataclass(frozen=True, slots=True)
class AsteriskOptions:
    """Validated settings. ``agents`` and ``colleagues`` are shell patterns of endpoint names."""

    ami: AmiOptions
    tap_endpoint: str
    agents: tuple[str, ...]
    colleagues: tuple[str, ...] = ()
    context: str = "from-internal"
    fallbacks: tuple[str, ...] = ()
    transfer_to: str = ""
    keys: PhoneKeyOptions = PhoneKeyOptions()
    marks: MarkOptions = MarkOptions()
    answer_ms: int = 20_000
    pause_ms: int = 60_000


class EventProbe:
    """Whether events reach us: a manager user without ``read=call`` logs in well and then hears nothing, ever.

    Asks for a call to an extension that cannot exist; its failure is told as an event of that class, if to anybody.
    """

    def __init__(self) -> None:
        self._id = f"firmline-probe-{random.getrandbits(32):08x}"
        self._heard = asyncio.Event()

    def hear(self, event: AmiMessage) -> None:
        """Every event goes here."""
        if event.event == "OriginateResponse" and event.get("ActionID") == self._id:
            self._heard.set()

    async def ask(self, ami: AmiClient, options: AmiOptions) -> None:
        """Returns once the event has come.

        Raises:
            PbxError: it did not come in time; the text names the line of manager.conf.
        """
        await ami.action(
            "Originate",
            ("Channel", f"Local/{self._id}@{self._id}"),
            ("Application", "Hangup"),
            ("Async", "true"),
            action_id=self._id,
        )
        try:
            async with asyncio.timeout(options.timeout_ms / 1000):
                await self._heard.wait()
        except TimeoutError:
            raise PbxError(
                f"no events reach manager user {options.username}, so no call can be seen: add call to its read="
            ) from None


async def extension_exists(ami: AmiClient, context: str, target: str) -> bool:
    """Whether ``target`` is an extension of ``context``.

    Raises:
        PbxError: the PBX would not say.
    """
    if _NO_EXTENSION.search(target):  # would be read as more than one argument
        return False
    return await _value(ami, f"DIALPLAN_EXISTS({context},{target},1)") == "1"


async def unreachable(ami: AmiClient, context: str, target: str, *, must_be_idle: bool = False) -> str | None:
    """Why nobody should be sent to extension ``target`` of ``context`` now, or ``None``.

    ``must_be_idle``: a phone that is in another call counts as one that cannot be reached.

    Raises:
        PbxError: the PBX would not say.
    """
    if not await extension_exists(ami, context, target):
        return f"extension {target} does not exist in context {context}"
    state = await ami.action("ExtensionState", ("Exten", target), ("Context", context))
    status = int(state.get("Status") or -1)
    if status < 0:  # no hint: a queue, a ring group, or a phone that nobody wrote a hint for
        device = await _value(ami, f"DEVICE_STATE(PJSIP/{target})")
        if device in _NOBODY_THERE:
            return f"no phone is registered at {target}"
        return f"{target} is in another call" if must_be_idle and device in _IN_CALL else None
    if status == _STATE_UNAVAILABLE:
        return f"no phone is registered at {target}"
    if status == _STATE_BUSY:
        return f"{target} is busy"
    return f"{target} is in another call" if must_be_idle and status > 0 else None


async def caller_facts(ami: AmiClient, channel: str) -> CallFacts:
    """Queue and number of the caller on ``channel``, as far as the PBX tells them; what it does not is ``None``.

    A caller who came by a queue is still in it while an agent speaks with them: their channel runs ``Queue(name,...)``.
    """
    try:
        rows = await ami.event_list("Status", ("Channel", channel))
    except PbxError:  # gone meanwhile, or no answer in time: the call is tapped all the same
        return CallFacts()
    row = next((row for row in rows if row.event == "Status"), AmiMessage(()))
    queue = row.get("Data").split(",")[0] if row.get("Application").lower() == "queue" else ""
    return CallFacts(None, queue_name(queue), phone_number(row.get("CallerIDNum")))


async def _value(ami: AmiClient, expression: str) -> str:
    return (await ami.action("Getvar", ("Variable", expression))).get("Value")


async def read(ami: AmiClient, expression: str) -> str:
    """A variable or dialplan function; empty where there is none, or the PBX would not say."""
    try:
        return await _value(ami, expression)
    except PbxError as exc:
        if exc.retryable:
            raise
        return ""


@contextlib.asynccontextmanager
async def logged_in(options: AsteriskOptions, on_event: Callable[[AmiMessage], None]) -> AsyncIterator[AmiClient]:
    """A connection of its own, for questions.

    Raises:
        PbxError: no login, with the reason.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    async def up() -> None:
        if not done.done():
            done.set_result(None)

    def lost(why: str) -> None:
        if not done.done():
            done.set_exception(PbxError(why))

    ami = AmiClient(options.ami, on_event=on_event, on_up=up, on_down=lost)
    ami.start()
    try:
        await done
        yield ami
    finally:
        await ami.stop()


async def missing_rights(ami: AmiClient) -> tuple[list[str], bool]:
    """Classes that ``write=`` of our manager user lacks, and whether agents may be paused."""
    allowed = await ami.action("ListCommands")
    known = {key.lower() for key, _ in allowed.fields}
    missing = {right for name, right in NEEDED_ACTIONS.items() if name.lower() not in known}
    return sorted(missing), "queuepause" in known


def lacking(user: str, missing: list[str]) -> str:
    """That in a sentence."""
    return f"manager user {user} may not do all that is needed: add {','.join(missing)} to its write="
