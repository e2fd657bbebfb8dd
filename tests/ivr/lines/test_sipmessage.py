"""The grammar: what is read is read exactly, what is not is refused, nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivr.lines.sipmessage import (
    BadRequest,
    NameAddr,
    Unparseable,
    build_response,
    parse,
    parse_name_addr,
    parse_params,
    parse_uri,
    parse_via,
    printable,
    response_destination,
    split_list,
)

WHOLE = (
    b"INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx;rport\r\nFrom: <sip:a@h>;tag=f\r\n"
    b"To: <sip:b@h>\r\nCall-ID: c@h\r\nCSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.1>\r\nContent-Length: 3\r\n\r\nabc"
)


@given(st.binary(max_size=300))
def test_parse_of_any_bytes_raises_only_its_own_errors(data: bytes) -> None:
    """Whatever arrives."""
    try:
        parse(data)
    except (Unparseable, BadRequest):
        pass


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=12), st.integers(0, 20))
def test_parse_of_a_damaged_message_raises_only_its_own_errors(at: int, insert: bytes, cut: int) -> None:
    """A real message with a hole or an insertion; what is refused can still be answered."""
    try:
        parse(WHOLE[:at] + insert + WHOLE[at + cut :])
    except Unparseable:
        pass
    except BadRequest as exc:
        answer = build_response(exc.message, exc.status, exc.reason, to_tag="t")
        assert answer.startswith(b"SIP/2.0 ") and answer.count(b"\r\n\r\n") == 1


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_values_never_break_their_parsers(text: str) -> None:
    """Each either gives a value or ValueError."""
    split_list(text)
    parse_params(text)
    for function in (parse_name_addr, parse_uri, parse_via):
        try:
            function(text)
        except ValueError:
            pass


def test_body_is_cut_to_content_length() -> None:
    """RFC 3261 section 18.3."""
    assert parse(WHOLE + b"def").body == b"abc"


def test_value_that_is_not_utf8_goes_back_byte_for_byte_and_is_shown_safely() -> None:
    """Echoed as it came; printable text for people and stores."""
    message = parse(WHOLE.replace(b"c@h\r\n", b"c\xe9\xff@h\r\n"))
    assert b"Call-ID: c\xe9\xff@h\r\n" in build_response(message, 200, "OK", to_tag="t")
    printable(message.call_id).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sip:a@h;tag=1", NameAddr("", "sip:a@h", {"tag": "1"})),
        ("<sip:a@h;lr>;tag=1", NameAddr("", "sip:a@h;lr", {"tag": "1"})),
        ('"B <x>, \\"y\\";" <sip:a@h>;tag="q;r"', NameAddr('"B <x>, \\"y\\";"', "sip:a@h", {"tag": "q;r"})),
        ("Bob  <sip:a@h> ; TAG = 1", NameAddr("Bob", "sip:a@h", {"tag": "1"})),
    ],
)
def test_name_addr_forms(text: str, expected: NameAddr) -> None:
    """RFC 3261 section 20.10."""
    assert parse_name_addr(text) == expected


def test_uri_parts() -> None:
    """RFC 3261 section 19.1."""
    uri = parse_uri("SIPS:al%40ice:pw@[2001:db8::1]:5061;transport=tcp;lr?X=y")
    assert (uri.scheme, uri.user, uri.host, uri.port) == ("sips", "al%40ice:pw", "[2001:db8::1]", 5061)
    assert uri.params == {"transport": "tcp", "lr": None}
    for bad in ("tel:+1", "sip:", "sip:a@h:0", "sip:a@h:70000", "sip:a@h\r\nX: y", "sip:a@h>"):
        with pytest.raises(ValueError, match="."):
            parse_uri(bad)


def test_via_is_stamped_and_aims_the_response() -> None:
    """RFC 3581 and RFC 3261 sections 18.2.1, 18.2.2; a forged received is replaced."""
    source = ("192.0.2.5", 6000)
    rport = parse_via("SIP/2.0/UDP 10.0.0.1:5070;received=6.6.6.6;rport;branch=z9hG4bKx").stamped(source)
    assert str(rport) == "SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx;received=192.0.2.5;rport=6000"
    assert response_destination(rport, source) == source
    plain = parse_via("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx").stamped(source)
    assert str(plain) == "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;received=192.0.2.5"
    assert response_destination(plain, source) == ("192.0.2.5", 5060)
    same = parse_via("SIP/2.0/UDP 192.0.2.5:5061;branch=z9hG4bKx").stamped(source)
    assert same.get("received") is None and response_destination(same, source) == ("192.0.2.5", 5061)
