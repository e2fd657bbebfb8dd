"""Which channels of an Asterisk are in which bridge, and which belong together. Sans-I/O.

A PBX has many more channels than guarded ones, and each of its events is looked at; so whoever stands near a channel
(in its bridge, or under its Linkedid) is found by an index, never by looking through all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ENDPOINT = re.compile(r"^[A-Za-z0-9]+/(?P<endpoint>.+?)(?:-[0-9a-f]+)?(?:;\d)?$")


@dataclass(slots=True)
class Channel:
    """One channel that is, or was, in a bridge. ``bridge`` and ``linkedid`` of one that :class:`Channels` knows are
    changed by it alone."""

    uniqueid: str
    name: str
    linkedid: str
    bridge: str = ""
    entered: int = 0
    """Order of entering bridges: who came last."""

    @property
    def endpoint(self) -> str:
        return endpoint_of(self.name)


def endpoint_of(channel: str) -> str:
    """``PJSIP/201-0000000a`` -> ``201``, ``DAHDI/i1/5551234-1f`` -> ``i1/5551234``; empty for no channel's name."""
    match = _ENDPOINT.match(channel)
    return match["endpoint"] if match else ""


class Channels:
    """All channels that are in a bridge or were.

    ``touched``: Uniqueids of those around whom something changed since it was emptied last; those that are gone too.
    """

    def __init__(self) -> None:
        self._all: dict[str, Channel] = {}
        self._by_bridge: dict[str, dict[str, Channel]] = {}
        self._by_linkedid: dict[str, dict[str, Channel]] = {}
        self._serial = 0
        self.touched: set[str] = set()

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._all.values())

    def __contains__(self, uniqueid: object) -> bool:
        return uniqueid in self._all

    def get(self, uniqueid: str) -> Channel | None:
        """The channel of that Uniqueid."""
        return self._all.get(uniqueid)

    def entered(self, uniqueid: str, name: str, linkedid: str, bridge: str) -> None:
        """A channel came into a bridge."""
        channel = self._all.get(uniqueid) or Channel(uniqueid, name, linkedid)
        self._serial += 1
        channel.name, channel.entered = name, self._serial
        self._place(channel, bridge, linkedid)
        # Asterisk gives every channel of a bridge the oldest Linkedid, but tells only of the one that enters.
        together = list(self._by_bridge[bridge].values()) if bridge else [channel]
        oldest = min((each.linkedid for each in together), key=_age)
        for each in together:
            self._place(each, each.bridge, oldest)

    def left(self, uniqueid: str, bridge: str) -> None:
        """A channel left that bridge; one that was moved may have entered the next before its leaving is told."""
        channel = self._all.get(uniqueid)
        if channel is not None and channel.bridge == bridge:
            self._place(channel, "", channel.linkedid)

    def renamed(self, uniqueid: str, name: str) -> None:
        """A channel has another name now."""
        channel = self._all.get(uniqueid)
        if channel is not None:
            channel.name = name
            self.touch(channel)

    def gone(self, uniqueid: str) -> None:
        """A channel is no more."""
        channel = self._all.pop(uniqueid, None)
        if channel is not None:
            self._unplace(channel)

    def found(self, shown: Channel) -> None:
        """A channel as the PBX lists it; how long it has been in its bridge stays known."""
        known = self._all.get(shown.uniqueid)
        self._serial += 1
        entered = known.entered if known is not None and known.bridge == shown.bridge else self._serial
        channel = known or shown
        channel.name, channel.entered = shown.name, entered
        self._place(channel, shown.bridge, shown.linkedid)

    def add(self, channel: Channel) -> None:
        """One that may be known already: then nothing changes."""
        if channel.uniqueid not in self._all:
            self._place(channel, channel.bridge, channel.linkedid)

    def company(self, channel: Channel) -> list[Channel]:
        """Who else is in its bridge."""
        if not channel.bridge:
            return []
        return [each for each in self._by_bridge[channel.bridge].values() if each is not channel]

    def near(self, channel: Channel) -> list[Channel]:
        """Who is in its bridge, or in another under its Linkedid; the channel itself included."""
        linked = self._by_linkedid.get(channel.linkedid, {}).values()
        around = {each.uniqueid: each for each in linked if each.bridge}
        if channel.bridge:
            around |= self._by_bridge.get(channel.bridge, {})
        return list(around.values())

    def touch(self, channel: Channel) -> None:
        """Something about the channel changed that matters to those near it."""
        self.touched.add(channel.uniqueid)
        self.touched.update(each.uniqueid for each in self.near(channel))

    def _place(self, channel: Channel, bridge: str, linkedid: str) -> None:
        if channel.uniqueid in self._all:
            self._unplace(channel)
        channel.bridge, channel.linkedid = bridge, linkedid
        self._all[channel.uniqueid] = channel
        self._by_linkedid.setdefault(linkedid, {})[channel.uniqueid] = channel
        if bridge:
            self._by_bridge.setdefault(bridge, {})[channel.uniqueid] = channel
        self.touch(channel)

    def _unplace(self, channel: Channel) -> None:
        self.touch(channel)
        for index, key in ((self._by_bridge, channel.bridge), (self._by_linkedid, channel.linkedid)):
            members = index.get(key, {})
            members.pop(channel.uniqueid, None)
            if not members:
                index.pop(key, None)


def _age(linkedid: str) -> tuple[float, str]:
    """Asterisk's ids begin with the second they were made in; ``pbx-1700000000.12`` when the system has a name."""
    match = re.search(r"(\d+)\.(\d+)$", linkedid)
    return (int(match[1]) + int(match[2]) / 1e6 if match else float("inf")), linkedid
