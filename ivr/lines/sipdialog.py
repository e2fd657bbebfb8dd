"""The dialog of one leg, as the side that was called: its states as a table, its identity, its requests.

States carry the words of RFC 4235. Two are ours, because the RFC's "confirmed" hides what decides whether a BYE may be
sent (RFC 3261 section 15: the callee must not before the ACK came): ``ACCEPTED`` is "200 sent, no ACK yet" (RFC 6026's
word) and ``ENDING`` is "hung up by us before the ACK: the BYE waits for it". Both read as confirmed to RFC 4235.

Every transition is in :data:`TABLE`. What the table leaves out: a CANCEL and a BYE are always answered 200 by their own
transaction before the table is asked, and hold is a direction of the session description, not a state. A peer's event
without a cell is answered, logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ivr.lines.sipmessage import Address, SipMessage, SipUri, parse_name_addr, parse_uri


class DialogState(StrEnum):
    """Where the dialog stands."""

    TRYING = "trying"
    PROCEEDING = "proceeding"
    EARLY = "early"
    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    ENDING = "ending"
    TERMINATED = "terminated"


class DialogEvent(StrEnum):
    """What can happen to it: the owner's choices, the peer's messages, time."""

    DEFER = "defer"
    RING = "ring"
    ANSWER = "answer"
    REJECT = "reject"
    HANG_UP = "hang_up"
    CANCEL = "cancel"
    BYE = "bye"
    ACK = "ack"
    NO_ANSWER = "no_answer"
    ACK_TIMEOUT = "ack_timeout"


class Act(StrEnum):
    """What the leg does on a transition, in order."""

    SEND_100 = "send_100"
    SEND_180 = "send_180"
    SEND_200 = "send_200"
    SEND_REFUSAL = "send_refusal"
    SEND_480 = "send_480"
    SEND_487 = "send_487"
    SEND_BYE = "send_bye"
    STOP_200 = "stop_200"
    CLOSE_MEDIA = "close_media"
    REPORT_UP = "report_up"
    REPORT_DOWN = "report_down"


S, E, A = DialogState, DialogEvent, Act
Cell = tuple[DialogState, tuple[Act, ...]]

_UNANSWERED: Mapping[DialogEvent, Cell] = {
    E.ANSWER: (S.ACCEPTED, (A.SEND_200,)),
    E.REJECT: (S.TERMINATED, (A.SEND_REFUSAL, A.CLOSE_MEDIA, A.REPORT_DOWN)),
    E.HANG_UP: (S.TERMINATED, (A.SEND_480, A.CLOSE_MEDIA, A.REPORT_DOWN)),
    E.NO_ANSWER: (S.TERMINATED, (A.SEND_480, A.CLOSE_MEDIA, A.REPORT_DOWN)),
    E.CANCEL: (S.TERMINATED, (A.SEND_487, A.CLOSE_MEDIA, A.REPORT_DOWN)),
    E.BYE: (S.TERMINATED, (A.SEND_487, A.CLOSE_MEDIA, A.REPORT_DOWN)),
}

TABLE: Mapping[DialogState, Mapping[DialogEvent, Cell]] = {
    S.TRYING: {
        **_UNANSWERED,
        E.DEFER: (S.PROCEEDING, (A.SEND_100,)),
    },
    S.PROCEEDING: {
        **_UNANSWERED,
        E.RING: (S.EARLY, (A.SEND_180,)),
    },
    S.EARLY: {
        **_UNANSWERED,
        E.RING: (S.EARLY, (A.SEND_180,)),
    },
    S.ACCEPTED: {
        E.ACK: (S.CONFIRMED, (A.STOP_200, A.REPORT_UP)),
        E.ACK_TIMEOUT: (S.TERMINATED, (A.STOP_200, A.CLOSE_MEDIA, A.SEND_BYE, A.REPORT_DOWN)),
        E.BYE: (S.TERMINATED, (A.STOP_200, A.CLOSE_MEDIA, A.REPORT_DOWN)),
        E.HANG_UP: (S.ENDING, (A.CLOSE_MEDIA, A.REPORT_DOWN)),
        E.CANCEL: (S.ACCEPTED, ()),
    },
    S.CONFIRMED: {
        E.ACK: (S.CONFIRMED, (A.STOP_200,)),
        E.ACK_TIMEOUT: (S.TERMINATED, (A.STOP_200, A.CLOSE_MEDIA, A.SEND_BYE, A.REPORT_DOWN)),
        E.BYE: (S.TERMINATED, (A.STOP_200, A.CLOSE_MEDIA, A.REPORT_DOWN)),
        E.HANG_UP: (S.TERMINATED, (A.STOP_200, A.CLOSE_MEDIA, A.SEND_BYE, A.REPORT_DOWN)),
        E.CANCEL: (S.CONFIRMED, ()),
    },
    S.ENDING: {
        E.ACK: (S.TERMINATED, (A.STOP_200, A.SEND_BYE)),
        E.ACK_TIMEOUT: (S.TERMINATED, (A.STOP_200, A.SEND_BYE)),
        E.BYE: (S.TERMINATED, (A.STOP_200,)),
        E.HANG_UP: (S.ENDING, ()),
        E.CANCEL: (S.ENDING, ()),
    },
    S.TERMINATED: {event: (S.TERMINATED, ()) for event in E},
}
"""state -> event -> (next state, acts)."""

UNANSWERED = frozenset({S.TRYING, S.PROCEEDING, S.EARLY})
ANSWERED = frozenset({S.ACCEPTED, S.CONFIRMED})


@dataclass(slots=True)
class Dialog:
    """Identity and route of one dialog, built from the INVITE that created it (RFC 3261 section 12.1.1).

    ``peer`` is where the dialog's requests come from: our own requests go there when the route or the remote target
    names a host instead of an IPv4 address, so that no name lookup ever holds up a BYE.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local: str
    remote: str
    remote_target: str
    route_set: tuple[str, ...]
    remote_cseq: int
    peer: Address
    local_cseq: int = 0
    state: DialogState = field(default=DialogState.TRYING)

    @classmethod
    def from_invite(cls, invite: SipMessage, local_tag: str, source: Address) -> Dialog:
        """Raises: ValueError: no usable Contact, or a Record-Route that is not a SIP URI."""
        routes = tuple(invite.listed("record-route"))
        for route in routes:
            parse_uri(parse_name_addr(route).uri)
        return cls(
            call_id=invite.call_id,
            local_tag=local_tag,
            remote_tag=invite.sender.tag,
            local=f"{invite.first('to')};tag={local_tag}",
            remote=invite.first("from") or "",
            remote_target=contact_uri(invite),
            route_set=routes,
            remote_cseq=invite.cseq,
            peer=source,
        )

    def matches(self, request: SipMessage) -> bool:
        """Whether an in-dialog request carries this dialog's tags (RFC 3261 section 12.2.2)."""
        return request.to.tag == self.local_tag and request.sender.tag == self.remote_tag

    def refresh_target(self, request: SipMessage) -> None:
        """A re-INVITE or UPDATE moves the remote target (RFC 3261 section 12.2.2)."""
        try:
            self.remote_target = contact_uri(request)
        except ValueError:
            return

    def next_request(self, method: str) -> tuple[str, list[tuple[str, str]], Address]:
        """Request-URI, headers and next hop of a request of ours (RFC 3261 section 12.2.1.1)."""
        self.local_cseq += 1
        uri, routes = self.remote_target, list(self.route_set)
        if routes:
            first = parse_name_addr(routes[0]).uri
            hop = first
            if "lr" not in parse_uri(first).params:
                # A strict router (RFC 2543) wants itself as Request-URI and the target as the last Route.
                uri, routes = first, [*routes[1:], f"<{self.remote_target}>"]
        else:
            hop = self.remote_target
        headers = [("Route", route) for route in routes]
        headers += [
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{self.local_cseq} {method}"),
        ]
        return uri, headers, next_hop(parse_uri(hop), self.peer)


def contact_uri(message: SipMessage) -> str:
    """Raises: ValueError: no Contact, or not a SIP URI."""
    values = message.listed("contact")
    if not values:
        raise ValueError("no Contact")
    uri = parse_name_addr(values[0]).uri
    parse_uri(uri)
    return uri


def next_hop(uri: SipUri, fallback: Address) -> Address:
    """Where a URI is, when it says so with an IPv4 address; ``fallback`` for names, IPv6 and 0.0.0.0."""
    octets = uri.host.split(".")
    if len(octets) != 4 or not all(o.isascii() and o.isdigit() and int(o) < 256 for o in octets) or octets[0] == "0":
        return fallback
    return uri.host, uri.port or 5060
