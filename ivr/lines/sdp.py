"""Session descriptions: read an offer or answer, choose the audio, write ours (RFC 4566, RFC 3264).

Sans-IO. Audio is PCMU or PCMA at 8000 Hz (static or dynamic payload type) with telephone-event beside it; every other
media line is declined with port 0, as RFC 3264 section 6 asks, never left out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from audio.types import PTIME_MS

CLOCK_HZ = 8000
MAX_LINES = 1000
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
MIRROR = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
"""Our direction for theirs (RFC 3264 section 6.1)."""

_STATIC = {0: "PCMU", 8: "PCMA"}
_OURS: Mapping[int, str] = {0: "PCMU", 8: "PCMA"}
_OUR_EVENTS = 101
_PROTOS = ("RTP/AVP", "RTP/AVPF")
_RTPMAP = re.compile(r"(\d{1,3})\s+([^/\s]+)/(\d+)(?:/(\d+))?\s*\Z")
_MEDIA = re.compile(r"([\x21-\x7e]+) +(\d{1,5})(?:/\d+)? +([\x21-\x7e]+)((?: +[\x21-\x7e]+)+) *\Z")


class SdpError(ValueError):
    """A description that cannot be used; the text is one plain clause, free of the peer's own words."""


@dataclass(frozen=True, slots=True)
class MediaLine:
    """One m= section; ``connection`` and ``direction`` already fall back to the session's."""

    kind: str
    port: int
    proto: str
    formats: tuple[str, ...]
    connection: str | None
    direction: str
    rtpmaps: Mapping[int, str] = field(default_factory=dict)
    """Payload type -> ``NAME/rate/channels``, upper case."""


@dataclass(frozen=True, slots=True)
class Description:
    """A whole session description as far as a call needs it."""

    timing: str
    media: tuple[MediaLine, ...]


@dataclass(frozen=True, slots=True)
class AudioChoice:
    """What was agreed. ``direction`` is ours; ``codecs`` maps payload type to PCMU/PCMA in the peer's order.

    ``index`` is the m= line it came from; ``None`` as ``remote_ip`` says that the peer gave no address to send to.
    """

    index: int
    remote_ip: str
    remote_port: int
    codecs: Mapping[int, str]
    telephone_event_pt: int | None
    direction: str


def parse_sdp(body: bytes) -> Description:
    """Raises: SdpError: not a session description."""
    if not body.isascii():
        text = body.decode("utf-8", "replace")
    else:
        text = body.decode("ascii")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if len(lines) > MAX_LINES:
        raise SdpError("the description is too long")
    pairs = [(line[0], line[2:]) for line in lines if len(line) > 1 and line[1] == "="]
    if not pairs or pairs[0] != ("v", "0"):
        raise SdpError("the body is not a session description")
    starts = [i for i, (kind, _) in enumerate(pairs) if kind == "m"]
    session = pairs[: starts[0]] if starts else pairs
    timing = next((v for k, v in session if k == "t" and re.fullmatch(r"\d{1,20} \d{1,20}", v)), "0 0")
    bounds = [*starts, len(pairs)]
    media = tuple(
        _media_line(pairs[a:b], _connection(session), _direction(session))
        for a, b in zip(bounds, bounds[1:], strict=False)
    )
    return Description(timing, media)


def _media_line(pairs: Sequence[tuple[str, str]], connection: str | None, direction: str | None) -> MediaLine:
    match = _MEDIA.match(pairs[0][1])
    if match is None or int(match[2]) > 65535:
        raise SdpError("an m= line is malformed")
    rtpmaps: dict[int, str] = {}
    for kind, value in pairs:
        if kind == "a" and value.startswith("rtpmap:"):
            found = _RTPMAP.match(value[7:].strip())
            if found:
                rtpmaps[int(found[1])] = f"{found[2].upper()}/{int(found[3])}/{found[4] or 1}"
    own = _connection(pairs)
    return MediaLine(
        kind=match[1].lower(),
        port=int(match[2]),
        proto=match[3].upper(),
        formats=tuple(match[4].split()),
        connection=own if own is not None else connection,
        direction=_direction(pairs) or direction or "sendrecv",
        rtpmaps=rtpmaps,
    )


def _connection(pairs: Sequence[tuple[str, str]]) -> str | None:
    value = next((v for k, v in pairs if k == "c"), None)
    return value.strip() if value is not None else None


def _direction(pairs: Sequence[tuple[str, str]]) -> str | None:
    return next((v.strip() for k, v in pairs if k == "a" and v.strip() in DIRECTIONS), None)


def choose_audio(remote: Description) -> AudioChoice:
    """The first audio line we can carry.

    Raises:
        SdpError: no audio line, no codec in common, or an address that is not unicast IPv4.
    """
    why = "the offer has no audio line"
    for index, line in enumerate(remote.media):
        if line.kind != "audio" or line.port == 0:
            continue
        try:
            return _choose(index, line)
        except SdpError as exc:
            why = str(exc)
    raise SdpError(why)


def still_audio(remote: Description, index: int) -> AudioChoice | None:
    """The audio of a later offer, or ``None`` when the peer has switched the stream off with port 0.

    Raises:
        SdpError: as :func:`choose_audio`.
    """
    if index < len(remote.media) and remote.media[index].port == 0:
        others = [m for m in remote.media if m.kind == "audio" and m.port != 0]
        if not others:
            return None
    return choose_audio(remote)


def _choose(index: int, line: MediaLine) -> AudioChoice:
    if line.proto not in _PROTOS:
        raise SdpError("the audio line asks for a transport other than RTP/AVP")
    address, muted = _address(line.connection)
    codecs: dict[int, str] = {}
    events: int | None = None
    for text in line.formats:
        if not re.fullmatch(r"\d{1,3}", text) or int(text) > 127:
            continue
        payload_type = int(text)
        name = line.rtpmaps.get(payload_type)
        if name is None:
            name = f"{_STATIC[payload_type]}/{CLOCK_HZ}/1" if payload_type in _STATIC else ""
        if name in (f"PCMU/{CLOCK_HZ}/1", f"PCMA/{CLOCK_HZ}/1"):
            codecs[payload_type] = name.split("/")[0]
        elif name == f"TELEPHONE-EVENT/{CLOCK_HZ}/1" and events is None:
            events = payload_type
    if not codecs:
        raise SdpError("no codec in common: the line offers neither PCMU nor PCMA at 8000 Hz")
    direction = MIRROR[line.direction]
    if muted:
        # The hold of RFC 2543, still in use: address 0.0.0.0 means "do not send to me" (RFC 3264 section 8.4).
        direction = {"sendrecv": "recvonly", "sendonly": "inactive"}.get(direction, direction)
    return AudioChoice(index, address, line.port, codecs, events, direction)


def _address(connection: str | None) -> tuple[str, bool]:
    if connection is None:
        raise SdpError("the offer has no c= line")
    parts = connection.split()
    if len(parts) != 3 or parts[0] != "IN":
        raise SdpError("the c= line is malformed")
    if parts[1] != "IP4":
        raise SdpError("the offer's media address is not IPv4")
    try:
        address = ipaddress.IPv4Address(parts[2])
    except ValueError as exc:
        raise SdpError("the offer's media address is not an IPv4 address") from exc
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise SdpError("the offer's media address is not unicast")
    return str(address), address.is_unspecified


# --- ours -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LocalSession:
    """Our half of the o= line: the version goes up when, and only when, what we say changes (RFC 3264 section 5)."""

    ip: str
    session_id: int
    version: int = 1
    _last: str = ""

    def answer(self, remote: Description, choice: AudioChoice | None, port: int) -> bytes:
        """Our answer: one m= line for each of theirs, in order; all but the chosen one with port 0."""
        sections: list[str] = []
        for index, line in enumerate(remote.media):
            if choice is None or index != choice.index:
                sections.append(f"m={line.kind} 0 {line.proto} {' '.join(line.formats)}\r\n")
            else:
                events = choice.telephone_event_pt
                sections.append(_audio(port, line.proto, choice.codecs, events, choice.direction))
        return self._write(remote.timing, sections)

    def offer(self, port: int, earlier: Description | None, index: int) -> bytes:
        """Our offer for an INVITE without one. ``earlier`` keeps the number and order of m= lines (section 8)."""
        sections = [f"m={m.kind} 0 {m.proto} {' '.join(m.formats)}\r\n" for m in earlier.media] if earlier else [""]
        sections[index] = _audio(port, "RTP/AVP", _OURS, _OUR_EVENTS, "sendrecv")
        return self._write(earlier.timing if earlier else "0 0", sections)

    def _write(self, timing: str, sections: list[str]) -> bytes:
        tail = f"s=Firmline\r\nc=IN IP4 {self.ip}\r\nt={timing}\r\n" + "".join(sections)
        if self._last and tail != self._last:
            self.version += 1
        self._last = tail
        return f"v=0\r\no=- {self.session_id} {self.version} IN IP4 {self.ip}\r\n{tail}".encode("utf-8", "replace")


def _audio(port: int, proto: str, codecs: Mapping[int, str], events: int | None, direction: str) -> str:
    formats = [*codecs, *([events] if events is not None else [])]
    lines = [f"m=audio {port} {proto} {' '.join(map(str, formats))}"]
    lines += [f"a=rtpmap:{pt} {name}/{CLOCK_HZ}" for pt, name in codecs.items()]
    if events is not None:
        lines += [f"a=rtpmap:{events} telephone-event/{CLOCK_HZ}", f"a=fmtp:{events} 0-16"]
    lines += [f"a=ptime:{PTIME_MS}", f"a={direction}"]
    return "".join(f"{line}\r\n" for line in lines)
