"""Messages that break the rules are answered as the RFC says or dropped and counted, and no live call notices."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytestmark = pytest.mark.sip

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)


async def test_options_tells_what_we_can_do(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 11.2; the same answer to its repeat; inside an unknown dialog 481."""
    line, _ = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    text = dialog.send("OPTIONS")
    first = await peer.response(200)
    assert first.get("Allow") == "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO"
    assert first.get("Accept") == "application/sdp" and first.to_tag
    peer.send(text)
    assert (await peer.response(200)).headers == first.headers
    await dialog.ask("OPTIONS", 481, to_tag="nobody")


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("REGISTER", 405), ("SUBSCRIBE", 405), ("NOTIFY", 405), ("REFER", 405), ("MESSAGE", 405), ("PUBLISH", 405),
        ("WIBBLE", 501), ("invite", 501), ("PRACK", 481), ("BYE", 481), ("INFO", 481), ("UPDATE", 481),
    ],
)  # fmt: skip
async def test_methods_we_do_not_serve(started: Any, peer_of: Any, method: str, status: int) -> None:
    """Known but not offered 405, unknown 501 (both with Allow), in-dialog without a dialog 481."""
    line, _ = await started()
    peer = await peer_of(line)
    reply = await peer.dialog().ask(method, status)
    assert bool(reply.get("Allow")) == (status in (405, 501))


async def test_required_extension_gets_420_with_its_name(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 8.2.2.3; 100rel is one we do not support."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    reply = await dialog.ask("INVITE", 420, body=OFFER, headers=("Require: 100rel, x-odd",))
    dialog.ack(branch=dialog.branch)
    assert reply.get("Unsupported") == "100rel, x-odd" and events.count("offered") == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (OFFER.replace("0 8 101", "9 18").replace("101 telephone-event", "9 G722"), "application/sdp", 488),
        (OFFER.replace("m=audio", "m=video"), "application/sdp", 488),
        (OFFER.replace("m=audio 4000", "m=audio 0"), "application/sdp", 488),
        (OFFER.replace("IN IP4 127.0.0.1\r\nt", "IN IP6 ::1\r\nt"), "application/sdp", 488),
        (OFFER.replace("c=IN IP4 127.0.0.1", "c=IN IP4 239.1.2.3"), "application/sdp", 488),
        (OFFER.replace("RTP/AVP", "RTP/SAVP"), "application/sdp", 488),
        ("v=0\r\n", "application/sdp", 488),
        ("not a description", "application/sdp", 488),
        ("hello", "text/plain", 415),
        ("--b\r\n\r\nx\r\n--b--", "multipart/mixed;boundary=b", 415),
    ],
)
async def test_offer_we_cannot_take_never_becomes_a_leg(
    started: Any, peer_of: Any, body: str, kind: str, status: int
) -> None:
    """No codec, no audio, IPv6, multicast, SRTP, rubbish: refused before the owner hears of it."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = peer.dialog()
    await dialog.ask("INVITE", status, body=body, kind=kind)
    dialog.ack(branch=dialog.branch)
    await peer.settle()
    assert events.count("offered") == 0 and line.status().legs == 0


async def test_multipart_offer_is_found(started: Any, peer_of: Any) -> None:
    """A description inside multipart/mixed (RFC 5621), as ISUP and SIPREC gateways send it."""
    line, _ = await started()
    peer = await peer_of(line)
    body = f"--b\r\nContent-Type: x/y\r\n\r\n1\r\n--b\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n--b--\r\n"
    dialog = peer.dialog()
    reply = await dialog.ask("INVITE", 200, body=body, kind='multipart/mixed; boundary="b"')
    assert "m=audio" in reply.body


async def test_info_by_content(started: Any, peer_of: Any) -> None:
    """Empty 200, a key press 200 and heard, anything else 415, a package 469."""
    line, events = await started()
    peer = await peer_of(line)
    dialog = await peer.call()
    await dialog.ask("INFO", 200)
    await dialog.ask("INFO", 200, body="Signal=5\r\nDuration=160\r\n", kind="application/dtmf-relay")
    await dialog.ask("INFO", 200, body="#", kind="application/dtmf")
    assert "dtmf" in (await dialog.ask("INFO", 415, body="x", kind="text/plain")).get("Accept")
    await dialog.ask("INFO", 469, headers=("Info-Package: foo",))
    assert events.values("dtmf") == ["5", "#"]


async def test_compact_folded_and_oddly_spelt_headers_are_understood(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 7.3: short names, any case, folding, several Vias in a line; the answer keeps their order."""
    line, events = await started()
    peer = await peer_of(line)
    host, port = peer.address
    peer.send(
        f"INVITE sip:firmline@127.0.0.1 SIP/2.0\r\n"
        f"v: SIP/2.0/UDP 192.0.2.9:{port};branch=z9hG4bKabc;rport , "
        f"SIP / 2.0 / UDP second.example.com : 5070 ;branch=1\r\n"
        f"VIA: SIP/2.0/TCP third.example.com;branch=z9hG4bK3\r\n"
        f'f: "A, \\"quoted\\" <name>" <sip:alice@{host}>\r\n ;tag=t1\r\nT:\r\n\t sip:firmline@{host}\r\n'
        f"i: folded-{port}\r\ncSEQ:   7\r\n  INVITE\r\nm: <sip:alice@{host}:{port}>\r\nk: timer, 100rel\r\n"
        f"c:   application/SDP ;charset=utf-8\r\nl: {len(OFFER)}\r\n\r\n{OFFER}trailing rubbish beyond the length"
    )
    reply = await peer.response(200)
    assert reply.all("Via") == [
        f"SIP/2.0/UDP 192.0.2.9:{port};branch=z9hG4bKabc;received=127.0.0.1;rport={port}",
        "SIP/2.0/UDP second.example.com:5070;branch=1",
        "SIP/2.0/TCP third.example.com;branch=z9hG4bK3",
    ]
    assert reply.get("From") == f'"A, \\"quoted\\" <name>" <sip:alice@{host}> ;tag=t1'
    peer.send(
        f"ACK sip:x@127.0.0.1 SIP/2.0\r\nv: SIP/2.0/UDP {host}:{port};branch=z9hG4bKabd\r\n"
        f"f: <sip:alice@{host}>;tag=t1\r\n"
        f"t: {reply.get('To')}\r\ni: folded-{port}\r\nCSeq: 7 ACK\r\n\r\n"
    )
    leg = await events.wait("up")
    assert leg.headers["call-id"] == f"folded-{port}" and leg.headers["supported"] == "timer, 100rel"


async def test_response_without_rport_goes_to_the_sent_by_port(started: Any, peer_of: Any) -> None:
    """RFC 3261 section 18.2.2: source address, port of the Via."""
    line, _ = await started()
    peer, other = await peer_of(line), await peer_of(line)
    dialog = peer.dialog(via_host=f"pbx.example.com:{other.address[1]}")
    peer.send(dialog.text("OPTIONS").replace(";rport", ""))
    reply = await other.response(200)
    assert reply.get("Via").endswith(";received=127.0.0.1")


def broken(dialog: Any, what: str) -> str:
    """An INVITE with one thing wrong."""
    text = dialog.text("INVITE", body=OFFER)
    call_id = f"Call-ID: {dialog.call_id}\r\n"
    changes = {
        "version": ("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"),
        "no call-id": (call_id, ""),
        "empty call-id": (call_id, "Call-ID:\r\n"),
        "two call-ids": (call_id, call_id + "Call-ID: other\r\n"),
        "spaced call-id": (call_id, "Call-ID: a b\r\n"),
        "no cseq": ("CSeq: 1 INVITE\r\n", ""),
        "cseq words": ("CSeq: 1 INVITE", "CSeq: one INVITE"),
        "cseq huge": ("CSeq: 1 INVITE", "CSeq: 9999999999 INVITE"),
        "cseq method": ("CSeq: 1 INVITE", "CSeq: 1 BYE"),
        "no from": ("From:", "X-From:"),
        "bad to": ("To: <sip:", "To: <"),
        "length short": (f"Content-Length: {len(OFFER)}", f"Content-Length: {len(OFFER) + 900}"),
        "length words": (f"Content-Length: {len(OFFER)}", "Content-Length: many"),
        "length negative": (f"Content-Length: {len(OFFER)}", "Content-Length: -1"),
        "no colon": ("Max-Forwards: 70", "Max-Forwards 70"),
        "injection": ("Max-Forwards: 70", "Max-Forwards: 70\nX-Evil: 1"),
        "nul": ("Max-Forwards: 70", "Max-Forwards: 7\x000"),
        "headers": ("Max-Forwards: 70\r\n", "X-A: b\r\n" * 500),
        "no contact": ("Contact:", "X-Contact:"),
        "bad contact": ("Contact: <sip:", "Contact: <tel:"),
        "bad route": ("Max-Forwards: 70", "Record-Route: <urn:x>"),
        "uri": ("INVITE sip:", "INVITE mailto:"),
    }
    old, new = changes[what]
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("what", "status"),
    [("version", 505), ("uri", 416)]
    + [
        (what, 400)
        for what in (
            "no call-id", "empty call-id", "two call-ids", "spaced call-id", "no cseq", "cseq words", "cseq huge",
            "cseq method", "no from", "bad to", "length short", "length words", "length negative", "no colon",
            "injection", "nul", "headers", "no contact", "bad contact", "bad route",
        )
    ],
)  # fmt: skip
async def test_broken_invite_is_refused_and_a_live_call_goes_on(
    started: Any, peer_of: Any, what: str, status: int
) -> None:
    """One thing wrong at a time, beside a live call that stays as it is."""
    line, events = await started()
    peer, hostile = await peer_of(line), await peer_of(line)
    live = await peer.call()
    await events.wait("up")
    hostile.send(broken(hostile.dialog(), what))
    reply = await hostile.response(status)
    assert "Evil" not in "".join(k for k, _ in reply.headers)
    await live.ask("INFO", 200)
    assert events.count("offered") == 1 and events.count("down") == 0 and line.status().legs == 1


async def test_rubbish_is_dropped_and_a_live_call_goes_on(started: Any, peer_of: Any) -> None:
    """Random bytes, keepalives, empty, huge, cut and bit-flipped messages: none answered wrongly, none felt."""
    line, events = await started()
    peer, hostile = await peer_of(line), await peer_of(line)
    live = await peer.call()
    await events.wait("up")
    chance = random.Random(7)
    whole = hostile.dialog().text("INVITE", body=OFFER).encode()
    rubbish = [b"", b"\r\n\r\n", b"\0\0\0\0", b"\x80" * 12, b"SIP/2.0", b"SIP/2.0 200 OK\r\n\r\n", b"A" * 65_000]
    rubbish += [b"INVITE sip:x SIP/2.0\r\nVia: " + b"," * 60_000, b"INVITE sip:x SIP/2.0\r\nVia: " + b'"' * 60_000]
    rubbish += [whole.replace(b"\r\n", b"\n"), b"\r\n" * 3 + b"\xff\xfe" * 100, b"SIP/2.0 999 x\r\n" + whole[30:]]
    rubbish += [chance.randbytes(chance.randrange(1, 400)) for _ in range(200)]
    rubbish += [whole[: chance.randrange(len(whole))] for _ in range(100)]
    for _ in range(300):
        flipped = bytearray(whole)
        for _ in range(3):
            flipped[chance.randrange(len(flipped))] = chance.randrange(256)
        rubbish.append(bytes(flipped))
    for i, data in enumerate(rubbish):
        hostile.send(data)
        if i % 50 == 49:
            await peer.settle()
    await peer.settle()
    await live.ask("INFO", 200)
    assert events.count("down") == 0 and line.counters["unparseable"] > 100 and line.counters["keepalives"] >= 2
    for leg in events.legs[1:]:
        leg.hang_up()
    await live.ask("BYE", 200)


async def test_large_message_is_read_whole(started: Any, peer_of: Any) -> None:
    """A datagram near the limit of UDP."""
    line, events = await started()
    peer = await peer_of(line)
    await peer.call(headers=tuple(f"X-Filler-{i}: {'y' * 1000}" for i in range(60)))
    leg = await events.wait("up")
    assert len(leg.headers["x-filler-59"]) == 1000


async def test_stray_responses_are_dropped(started: Any, peer_of: Any) -> None:
    """A response to nothing we asked."""
    line, _ = await started()
    peer = await peer_of(line)
    text = peer.dialog().text("BYE")
    peer.send(text.replace(text.split("\r\n")[0], "SIP/2.0 200 OK", 1))
    await peer.settle()
    assert line.counters["responses_stray"] == 1


async def test_flood_of_requests_keeps_memory_bounded(started: Any, peer_of: Any) -> None:
    """The table of transactions has a ceiling, and requests beyond the oldest half push out what was answered."""
    from ivr.lines.sipmessage import parse
    from ivr.lines.transactions import MAX_TRANSACTIONS

    line, _ = await started()
    peer = await peer_of(line)
    table = line._phone.sip.server_transactions
    for _ in range(MAX_TRANSACTIONS + 100):
        transaction = table.create(parse(peer.dialog().text("OPTIONS").encode()), peer.address, "t")
        assert transaction is not None
        table._age(transaction, transaction.state, 60_000)
    assert len(table._ageing) + len(table._live) <= MAX_TRANSACTIONS
    for _ in range(MAX_TRANSACTIONS):
        table.create(parse(peer.dialog().text("INVITE").encode()), peer.address, "t")
    assert line.counters["overload_dropped"] > 0
