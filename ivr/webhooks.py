"""Signed webhooks to the Standard Webhooks specification (standardwebhooks.com, version 1).

The signature is base64 HMAC-SHA256 over ``id.timestamp.body`` under a secret written ``whsec_`` + base64. The receiver
checks the raw body, so what is signed here must be sent byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
SECRET_PREFIX = "whsec_"
TOLERANCE_S = 300
"""Signatures older or newer than this are refused: a recorded request cannot be replayed later."""


class WebhookError(ValueError):
    """A secret that cannot be used, or a request whose signature does not hold; the text says which."""


def secret_key(secret: str) -> bytes:
    """The key bytes of a ``whsec_...`` secret.

    Raises:
        WebhookError: not of that form, or shorter than 24 bytes or longer than 64 (the specification's bounds).
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
        raise WebhookError(
            "the webhook secret must be whsec_ followed by 24 to 64 random bytes in base64; make one with: "
            'echo "whsec_$(openssl rand -base64 32)"'
        )
    return key


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers for ``body``.

    Raises:
        WebhookError: the secret cannot be used.
    """
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp_s),
        SIGNATURE_HEADER: "v1," + _digest(secret_key(secret), message_id, str(timestamp_s), body),
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Check a request and return its id; ``headers`` by any case of name. Several signatures may be listed.

    Raises:
        WebhookError: a header is missing or malformed, the time is off, no signature matches, or the secret is no good.
    """
    key = secret_key(secret)
    found = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp, signatures = (found[h] for h in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
    except KeyError as exc:
        raise WebhookError(f"header {exc.args[0]} is missing") from None
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise WebhookError(f"header {TIMESTAMP_HEADER} is not a number of seconds")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise WebhookError(f"header {TIMESTAMP_HEADER} is more than {TOLERANCE_S} s off: check both clocks")
    expected = _digest(key, message_id, timestamp, body).encode()
    for item in signatures.split():
        version, _, signature = item.partition(",")
        if version == "v1" and hmac.compare_digest(signature.encode("utf-8", "replace"), expected):
            return message_id
    raise WebhookError("no signature matches: both sides need the same secret, and the body must not be changed")


def _digest(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode("utf-8", "replace") + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
