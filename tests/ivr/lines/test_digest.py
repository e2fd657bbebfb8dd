"""Digest arithmetic against the examples of the RFCs."""

from __future__ import annotations

import re

import pytest

from ivr.lines.digest import Challenge


@pytest.mark.parametrize(
    ("algorithm", "realm", "password", "nonce", "cnonce", "expected"),
    [
        # RFC 2617 section 3.5
        (
            "MD5",
            "testrealm@host.com",
            "Circle Of Life",
            "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            "0a4f113b",
            "6629fae49393a05397450978507c4ef1",
        ),
        # RFC 7616 section 3.9.1
        (
            "SHA-256",
            "http-auth@example.org",
            "Circle of Life",
            "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ],
)
def test_response_is_the_one_in_the_rfc(
    algorithm: str, realm: str, password: str, nonce: str, cnonce: str, expected: str
) -> None:
    """Same inputs, same response; the nonce count goes up with each use."""
    challenge = Challenge(realm, nonce, algorithm, True, None, False, False)
    name, value = challenge.authorization(
        username="Mufasa", password=password, method="GET", uri="/dir/index.html", cnonce=cnonce
    )
    assert name == "Authorization" and re.search(r'response="([^"]*)"', value)[1] == expected  # type: ignore[index]
    again = challenge.authorization(username="x", password="y", method="GET", uri="/", cnonce="z")[1]
    assert "nc=00000001" in value and "nc=00000002" in again


def test_quotes_in_names_cannot_break_out_of_their_field() -> None:
    """A realm with a quote is escaped (RFC 3261 section 25.1)."""
    challenge = Challenge('a"b\\', "n", "MD5", False, None, False, True)
    name, value = challenge.authorization(username='u"', password="p", method="M", uri="sip:h", cnonce="c")
    assert name == "Proxy-Authorization" and 'realm="a\\"b\\\\"' in value and 'username="u\\""' in value
