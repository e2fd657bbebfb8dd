"""Offers and answers: what is agreed, what is declined, what each side may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.lines.sdp import LocalSession, SdpError, choose_audio, parse_sdp, still_audio

HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"


def offer(*lines: str, head: str = HEAD) -> bytes:
    return (head + "".join(f"{line}\r\n" for line in lines)).encode()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_description_or_an_sdp_error(data: bytes) -> None:
    """Also behind a valid beginning."""
    for body in (data, HEAD.encode() + data, HEAD.encode() + b"m=audio 4000 RTP/AVP 0\r\n" + data):
        try:
            choose_audio(parse_sdp(body))
        except SdpError as exc:
            assert str(exc).isascii()


def test_dynamic_payload_types_are_found_by_their_maps() -> None:
    """PCMA as 97, events as 100; wideband events and unknown codecs left aside; their order kept."""
    choice = choose_audio(
        parse_sdp(
            offer(
                "m=audio 4000/2 RTP/AVP 9 97 0 98 100 18",
                "a=rtpmap:97 pcma/8000/1",
                "a=rtpmap:98 telephone-event/48000",
                "a=rtpmap:100 telephone-event/8000",
            )
        )
    )
    assert dict(choice.codecs) == {97: "PCMA", 0: "PCMU"} and list(choice.codecs) == [97, 0]
    assert choice.telephone_event_pt == 100 and (choice.remote_ip, choice.remote_port) == ("192.0.2.1", 4000)


def test_static_number_mapped_to_something_else_is_believed() -> None:
    """An rtpmap wins over the static table."""
    with pytest.raises(SdpError, match="no codec in common"):
        choose_audio(parse_sdp(offer("m=audio 4000 RTP/AVP 0", "a=rtpmap:0 L16/44100/2")))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("sendrecv", "sendrecv"), ("sendonly", "recvonly"), ("recvonly", "sendonly"), ("inactive", "inactive")],
)
def test_direction_is_mirrored_from_media_or_session_level(theirs: str, ours: str) -> None:
    """RFC 3264 section 6.1; the media level wins."""
    assert choose_audio(parse_sdp(offer("m=audio 4000 RTP/AVP 0", f"a={theirs}"))).direction == ours
    assert choose_audio(parse_sdp(offer("m=audio 4000 RTP/AVP 0", head=HEAD + f"a={theirs}\r\n"))).direction == ours
    both = offer("m=audio 4000 RTP/AVP 0", f"a={theirs}", head=HEAD + "a=inactive\r\n")
    assert choose_audio(parse_sdp(both)).direction == ours


def test_address_of_the_media_level_wins() -> None:
    """RFC 4566 section 5.7."""
    choice = choose_audio(parse_sdp(offer("m=audio 4000 RTP/AVP 0", "c=IN IP4 198.51.100.7")))
    assert choice.remote_ip == "198.51.100.7"


@pytest.mark.parametrize(("theirs", "ours"), [("sendrecv", "recvonly"), ("recvonly", "inactive")])
def test_zero_address_is_the_old_hold(theirs: str, ours: str) -> None:
    """RFC 3264 section 8.4: we must not send."""
    body = offer("m=audio 4000 RTP/AVP 0", f"a={theirs}", "c=IN IP4 0.0.0.0")
    assert choose_audio(parse_sdp(body)).direction == ours


def test_every_line_is_answered_in_order_and_the_others_declined() -> None:
    """RFC 3264 section 6: same number of lines, same order, port 0 for what we leave."""
    remote = parse_sdp(
        offer(
            "m=video 6000 RTP/AVP 96",
            "m=audio 5000 RTP/SAVP 0",
            "m=audio 4000 RTP/AVPF 8 101",
            "a=rtpmap:101 telephone-event/8000",
            "m=image 7000 udptl t38",
            head=HEAD.replace("t=0 0", "t=10 20"),
        )
    )
    choice = choose_audio(remote)
    text = LocalSession("198.51.100.1", 77).answer(remote, choice, 30000).decode()
    assert choice.index == 2
    assert [line for line in text.splitlines() if line.startswith("m=")] == [
        "m=video 0 RTP/AVP 96",
        "m=audio 0 RTP/SAVP 0",
        "m=audio 30000 RTP/AVPF 8 101",
        "m=image 0 UDPTL t38",
    ]
    assert "t=10 20" in text and "a=ptime:20" in text and "o=- 77 1 IN IP4 198.51.100.1" in text


def test_version_rises_only_when_the_description_changes() -> None:
    """RFC 3264 section 8: a session refresh gets the same answer with the same version."""
    session = LocalSession("198.51.100.1", 1)
    remote = parse_sdp(offer("m=audio 4000 RTP/AVP 0"))
    first = session.answer(remote, choose_audio(remote), 30000)
    assert session.answer(remote, choose_audio(remote), 30000) == first
    held = parse_sdp(offer("m=audio 4000 RTP/AVP 0", "a=sendonly"))
    assert b"o=- 1 2 IN" in session.answer(held, choose_audio(held), 30000)


def test_later_offer_of_ours_keeps_the_lines() -> None:
    """RFC 3264 section 8: lines are never removed."""
    earlier = parse_sdp(offer("m=video 6000 RTP/AVP 96", "m=audio 4000 RTP/AVP 8"))
    lines = LocalSession("198.51.100.1", 1).offer(30000, earlier, 1).decode().splitlines()
    media = [line for line in lines if line.startswith("m=")]
    assert media == ["m=video 0 RTP/AVP 96", "m=audio 30000 RTP/AVP 0 8 101"]


def test_port_zero_in_a_later_offer_switches_the_stream_off() -> None:
    """Nothing to choose, nothing to refuse."""
    assert still_audio(parse_sdp(offer("m=audio 0 RTP/AVP 0")), 0) is None
    moved = still_audio(parse_sdp(offer("m=audio 0 RTP/AVP 0", "m=audio 4002 RTP/AVP 0")), 0)
    assert moved is not None and moved.index == 1
