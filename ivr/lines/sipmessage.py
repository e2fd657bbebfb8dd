"""SIP messages as bytes on the wire: parse strictly, keep every value, build what we send (RFC 3261 sections 7, 20).

Owns the grammar and nothing else: no sockets, no timers, no dialogs. Text is decoded as UTF-8 with ``surrogateescape``
so that an echoed value goes back byte for byte; whoever shows a value to a person uses :func:`printable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

MAX_HEADERS = 256
"""No honest request comes near (a long path has about 15 Vias); a bound keeps one datagram cheap."""

ALLOWED_METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "UPDATE", "INFO")
KNOWN_METHODS = frozenset((*ALLOWED_METHODS, "REGISTER", "PRACK", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REFER", "MESSAGE"))

_COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition",
    "e": "content-encoding", "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported",
    "l": "content-length", "m": "contact", "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject",
    "t": "to", "u": "allow-events", "v": "via", "x": "session-expires", "y": "identity",
}  # fmt: skip
"""RFC 3261 section 7.3.3 and the IANA registry of SIP header fields."""

_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REQUEST_LINE = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]+) +(\S+) +(\S+)\Z")
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6]\d\d)(?: (.*))?\Z")
_VIA = re.compile(
    r"\s*SIP\s*/\s*2\.0\s*/\s*([A-Za-z0-9]+)\s+(\[[0-9A-Fa-f:.]+\]|[^\s:;,\[\]]+)\s*(?::\s*(\d{1,5}))?\s*(;.*)?\Z"
)
_CSEQ = re.compile(r"(\d{1,10})\s+([A-Za-z0-9\-.!%*_+`'~]+)\Z")
_URI = re.compile(
    r"(sips?):(?:([^@<>\s]*)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._]+)(?::(\d{1,5}))?((?:;[^?<>\s]*)?)(?:\?[^<>\s]*)?\Z",
    re.IGNORECASE,
)

Address = tuple[str, int]
Headers = Iterable[tuple[str, str]]


class Unparseable(ValueError):
    """Not SIP, or too broken to know whom to answer: drop and count."""


class BadRequest(ValueError):
    """A request that must be refused: ``status`` and ``reason`` say how, ``message`` holds what could be read of it."""

    def __init__(self, status: int, reason: str, message: SipMessage) -> None:
        super().__init__(f"{status} {reason}")
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True, slots=True)
class Via:
    """One Via value (RFC 3261 section 20.42); ``params`` keeps order and case of the values."""

    transport: str
    host: str
    port: int | None
    params: tuple[tuple[str, str | None], ...] = ()

    def get(self, name: str) -> str | None:
        """Value of a parameter; ``""`` when it is present without one, ``None`` when absent."""
        for key, value in self.params:
            if key.lower() == name:
                return value or ""
        return None

    @property
    def branch(self) -> str:
        return self.get("branch") or ""

    @property
    def sent_by(self) -> str:
        """Host and port as compared by transaction matching (RFC 3261 section 17.2.3)."""
        return f"{self.host.lower()}:{self.port or 5060}"

    def stamped(self, source: Address) -> Via:
        """With ``received`` (RFC 3261 section 18.2.1) and ``rport`` (RFC 3581 section 4) filled in."""
        kept = [(k, v) for k, v in self.params if k.lower() not in ("received", "rport")]
        if self.get("rport") is not None:
            kept += [("received", source[0]), ("rport", str(source[1]))]
        elif self.host != source[0]:
            kept.append(("received", source[0]))
        return replace(self, params=tuple(kept))

    def __str__(self) -> str:
        port = f":{self.port}" if self.port is not None else ""
        tail = "".join(f";{k}" if v is None else f";{k}={v}" for k, v in self.params)
        return f"SIP/2.0/{self.transport} {self.host}{port}{tail}"


@dataclass(frozen=True, slots=True)
class NameAddr:
    """A From, To, Contact, Route or Record-Route value; ``params`` are those of the header, not of the URI."""

    display: str
    uri: str
    params: dict[str, str | None] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return self.params.get("tag") or ""


@dataclass(frozen=True, slots=True)
class SipUri:
    """A sip: or sips: URI taken apart (RFC 3261 section 19.1); ``params`` by lower-case name."""

    scheme: str
    user: str
    host: str
    port: int | None
    params: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SipMessage:
    """One request (``method`` set) or response (``status`` set). Header names are lower case, long form, in order."""

    method: str = ""
    uri: str = ""
    status: int = 0
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    vias: tuple[Via, ...] = ()
    sender: NameAddr = NameAddr("", "")
    to: NameAddr = NameAddr("", "")
    call_id: str = ""
    cseq: int = 0
    cseq_method: str = ""

    def first(self, name: str) -> str | None:
        """First value of a header by lower-case name."""
        return next((v for k, v in self.headers if k == name), None)

    def listed(self, name: str) -> list[str]:
        """All values of a header in order, comma-joined ones taken apart (RFC 3261 section 7.3.1)."""
        return [item for k, v in self.headers if k == name for item in split_list(v)]

    def tokens(self, name: str) -> list[str]:
        """``listed`` in lower case, for option tags and the like."""
        return [item.lower() for item in self.listed(name)]

    def content_type(self) -> str:
        """Media type without parameters, lower case; ``""`` when absent."""
        return (self.first("content-type") or "").partition(";")[0].strip().lower()


# --- values -----------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """``text`` with bytes that are not UTF-8 replaced, so that it can be logged, stored and shown."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def split_outside(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside quoted strings and angle brackets; empty parts are dropped."""
    parts: list[str] = []
    start, quoted, angle, skip = 0, False, False, False
    for i, char in enumerate(text):
        if skip:
            skip = False
        elif quoted:
            if char == "\\":
                skip = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == separator and not angle:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def split_list(text: str) -> list[str]:
    """The comma-separated values of one header line."""
    return split_outside(text, ",")


def parse_params(text: str) -> dict[str, str | None]:
    """``;a=b;c`` as a dict by lower-case name; quotes are taken off; the first of a repeated name wins."""
    out: dict[str, str | None] = {}
    for part in split_outside(text, ";"):
        name, equals, value = part.partition("=")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        out.setdefault(name.strip().lower(), value if equals else None)
    return out


def parse_name_addr(text: str) -> NameAddr:
    """Both forms, ``"Display" <uri>;params`` and ``uri;params`` (RFC 3261 section 20.10).

    Raises:
        ValueError: brackets that do not close or no URI.
    """
    text = text.strip()
    opening = _unquoted(text, "<")
    if opening >= 0:
        closing = text.find(">", opening)
        if closing < 0:
            raise ValueError("bracket not closed")
        display, uri, rest = text[:opening].strip(), text[opening + 1 : closing].strip(), text[closing + 1 :]
    else:
        display = ""
        uri, _, rest = text.partition(";")
    if ":" not in uri:
        raise ValueError("no URI")
    return NameAddr(display, uri.strip(), parse_params(rest))


def _unquoted(text: str, wanted: str) -> int:
    quoted = skip = False
    for i, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\" and quoted:
            skip = True
        elif char == '"':
            quoted = not quoted
        elif char == wanted and not quoted:
            return i
    return -1


def parse_uri(text: str) -> SipUri:
    """Raises: ValueError: not a sip: or sips: URI."""
    match = _URI.match(text)
    if match is None:
        raise ValueError("not a SIP URI")
    scheme, user, host, port, params = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError("port out of range")
    return SipUri(scheme.lower(), user or "", host, int(port) if port else None, parse_params(params))


def parse_via(text: str) -> Via:
    """Raises: ValueError: not a Via value."""
    match = _VIA.match(text)
    if match is None:
        raise ValueError("bad Via")
    transport, host, port, tail = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError("bad Via port")
    params: list[tuple[str, str | None]] = []
    for part in split_outside(tail or "", ";"):
        name, equals, value = part.partition("=")
        params.append((name.strip(), value.strip() if equals else None))
    return Via(transport.upper(), host, int(port) if port else None, tuple(params))


# --- parsing ----------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> SipMessage:
    """One datagram as a message.

    Raises:
        Unparseable: not SIP, a broken response, or a request whose sender cannot be told.
        BadRequest: a request that has to be refused with 400 or 505 (RFC 3261 sections 8.2, 18.3, 21.5.6).
    """
    head, _, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    status_line = _STATUS_LINE.match(lines[0])
    request_line = None if status_line else _REQUEST_LINE.match(lines[0])
    if status_line is None and (request_line is None or not request_line[3].upper().startswith("SIP/")):
        raise Unparseable("no start line")
    headers, fault = _headers(lines[1:])
    message = SipMessage(headers=headers, body=body)
    if status_line is not None:
        message = replace(message, status=int(status_line[1]), reason=status_line[2] or "")
    elif request_line is not None:
        message = replace(message, method=request_line[1], uri=request_line[2])
    message, fault = _core(message, fault)
    if request_line is not None and request_line[3].upper() != "SIP/2.0":
        raise BadRequest(505, "Version Not Supported", message)
    if not fault:
        message, fault = _sized(message)
    if fault and message.status:
        raise Unparseable(fault)
    if fault:
        raise BadRequest(400, fault, message)
    return message


def _headers(lines: list[str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Unfold and name the header lines; the text says what was wrong with them, if anything."""
    unfolded: list[str] = []
    for line in lines:
        if line[:1] in (" ", "\t") and unfolded:
            unfolded[-1] += " " + line.strip()
        else:
            unfolded.append(line)
    out: list[tuple[str, str]] = []
    fault = "Too Many Headers" if len(unfolded) > MAX_HEADERS else ""
    for line in unfolded[:MAX_HEADERS]:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t").lower()
        if not line:
            continue
        if not colon or not _TOKEN.match(name) or _CONTROL.search(value):
            fault = fault or "Bad Header"
            continue
        out.append((_COMPACT.get(name, name), value.strip()))
    return tuple(out), fault


def _core(message: SipMessage, fault: str) -> tuple[SipMessage, str]:
    """Fill in the five fields every message needs. Without a top Via there is nobody to answer."""
    try:
        vias = tuple(parse_via(v) for v in message.listed("via"))
    except ValueError as exc:
        raise Unparseable("bad Via") from exc
    if not vias:
        raise Unparseable("no Via")
    message = replace(message, vias=vias, call_id=message.first("call-id") or "")
    for name in ("from", "to", "call-id", "cseq"):
        values = [v for k, v in message.headers if k == name]
        if not values or not values[0]:
            return message, fault or f"Missing {name.title()}"
        if len(values) > 1 and len(set(values)) > 1:
            return message, fault or f"Repeated {name.title()}"
    try:
        sender, to = parse_name_addr(message.first("from") or ""), parse_name_addr(message.first("to") or "")
    except ValueError:
        return message, fault or "Bad From Or To"
    message = replace(message, sender=sender, to=to)
    match = _CSEQ.match(message.first("cseq") or "")
    if match is None or int(match[1]) >= 2**31:
        return message, fault or "Bad CSeq"
    message = replace(message, cseq=int(match[1]), cseq_method=match[2])
    if message.method and message.method != message.cseq_method:
        return message, fault or "CSeq Method Mismatch"
    return message, fault


def _sized(message: SipMessage) -> tuple[SipMessage, str]:
    """Cut the body to Content-Length; over UDP a longer datagram is padded, a shorter one is cut off (section 18.3)."""
    length = message.first("content-length")
    if length is None:
        return message, ""
    if not re.fullmatch(r"\d{1,9}", length):
        return message, "Bad Content-Length"
    if int(length) > len(message.body):
        return message, "Body Shorter Than Content-Length"
    return replace(message, body=message.body[: int(length)]), ""


# --- building ---------------------------------------------------------------------------------------------------------


def build_response(
    request: SipMessage,
    status: int,
    reason: str,
    *,
    to_tag: str,
    headers: Headers = (),
    body: bytes = b"",
) -> bytes:
    """A response to ``request``, whose top Via is already stamped (RFC 3261 section 8.2.6.2)."""
    lines = [f"SIP/2.0 {status} {reason}"]
    lines += [f"Via: {via}" for via in request.vias]
    for name, title in (("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq")):
        value = request.first(name)
        if value is None:
            continue
        if name == "to" and to_tag and not request.to.tag:
            value += f";tag={to_tag}"
        lines.append(f"{title}: {value}")
    return _finish(lines, headers, body)


def build_request(method: str, uri: str, via: str, headers: Headers, body: bytes = b"") -> bytes:
    """A request with one Via of ours and Max-Forwards."""
    return _finish([f"{method} {uri} SIP/2.0", f"Via: {via}", "Max-Forwards: 70"], headers, body)


def _finish(lines: list[str], headers: Headers, body: bytes) -> bytes:
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def response_destination(via: Via, source: Address) -> Address:
    """Where a response goes over UDP (RFC 3261 section 18.2.2, RFC 3581 section 4).

    ``maddr`` is not followed: it would let a stranger aim our responses, and no unicast peer needs it.
    """
    if via.get("rport") is not None:
        return source
    return source[0], via.port or 5060


def sdp_part(message: SipMessage) -> bytes | None:
    """The session description in a message: the body or a part of a multipart one (RFC 5621); else ``None``."""
    kind = message.content_type()
    if kind == "application/sdp":
        return message.body
    if not kind.startswith("multipart/"):
        return None
    boundary = parse_params((message.first("content-type") or "").partition(";")[2]).get("boundary")
    if not boundary:
        return None
    for part in message.body.split(b"--" + boundary.encode("utf-8", "surrogateescape")):
        head, _, body = part.partition(b"\r\n\r\n")
        if re.search(rb"(?im)^(content-type|c)\s*:\s*application/sdp\b", head):
            return body
    return None
