"""HTTP digest for SIP: MD5, SHA-256, their -sess forms, qop=auth (RFC 3261 section 22, RFC 7616, 8760). Sans-IO."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ivr.lines.sipmessage import SipMessage, parse_params, split_outside

_HASHES: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}


class UnsupportedChallenge(ValueError):
    """The challenge asks for something we cannot do; the text says what."""


@dataclass(slots=True)
class Challenge:
    """One challenge, and how often its nonce was used. ``proxy`` says that it came with a 407."""

    realm: str
    nonce: str
    algorithm: str
    qop_auth: bool
    opaque: str | None
    stale: bool
    proxy: bool
    uses: int = field(default=0)

    def authorization(self, *, username: str, password: str, method: str, uri: str, cnonce: str) -> tuple[str, str]:
        """Header name and value that answer this challenge; counts the use of the nonce."""
        self.uses += 1
        digest = _HASHES[self.algorithm.removesuffix("-SESS")]

        def hashed(*parts: str) -> str:
            return digest(":".join(parts).encode("utf-8", "surrogateescape"))

        secret = hashed(username, self.realm, password)
        if self.algorithm.endswith("-SESS"):
            secret = hashed(secret, self.nonce, cnonce)
        request = hashed(method, uri)
        count = f"{self.uses:08x}"
        middle = (self.nonce, count, cnonce, "auth") if self.qop_auth else (self.nonce,)
        fields = [
            ("username", _quoted(username)),
            ("realm", _quoted(self.realm)),
            ("nonce", _quoted(self.nonce)),
            ("uri", _quoted(uri)),
            ("response", _quoted(hashed(secret, *middle, request))),
            ("algorithm", self.algorithm.replace("-SESS", "-sess")),
        ]
        if self.opaque is not None:
            fields.append(("opaque", _quoted(self.opaque)))
        if self.qop_auth:
            fields += [("qop", "auth"), ("nc", count)]
        if self.qop_auth or self.algorithm.endswith("-SESS"):
            fields.append(("cnonce", _quoted(cnonce)))
        name = "Proxy-Authorization" if self.proxy else "Authorization"
        return name, "Digest " + ", ".join(f"{k}={v}" for k, v in fields)


def read_challenge(response: SipMessage) -> Challenge:
    """The first challenge we can answer: the order is the server's preference (RFC 8760 section 2.4).

    Raises:
        UnsupportedChallenge: none that we can answer.
    """
    proxy = response.status == 407
    wanted = "proxy-authenticate" if proxy else "www-authenticate"
    why = f"it asked for a password ({response.status}) without a challenge"
    for value in (v for k, v in response.headers if k == wanted):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() != "digest":
            why = "it offers no digest authentication"
            continue
        try:
            return _read(split_outside(rest, ","), proxy)
        except UnsupportedChallenge as exc:
            why = str(exc)
    raise UnsupportedChallenge(why)


def _read(parts: Sequence[str], proxy: bool) -> Challenge:
    params = parse_params(";".join(parts))
    realm, nonce = params.get("realm"), params.get("nonce")
    if realm is None or not nonce:
        raise UnsupportedChallenge("its challenge has no realm or no nonce")
    algorithm = (params.get("algorithm") or "MD5").upper()
    if algorithm.removesuffix("-SESS") not in _HASHES:
        raise UnsupportedChallenge("it asks for a digest algorithm other than MD5 and SHA-256")
    offered = params.get("qop")
    qops = [q.strip().lower() for q in offered.split(",")] if offered else []
    if qops and "auth" not in qops:
        raise UnsupportedChallenge("it asks for a digest protection other than qop=auth")
    stale = (params.get("stale") or "").lower() == "true"
    return Challenge(realm, nonce, algorithm, bool(qops), params.get("opaque"), stale, proxy)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
