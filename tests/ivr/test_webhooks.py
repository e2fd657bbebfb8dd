"""Signatures to the Standard Webhooks specification."""

from __future__ import annotations

import pytest

from ivr.webhooks import WebhookError, secret_key, sign, verify

# The example of the specification's own libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_sign_specification_example_matches() -> None:
    """Id, time, body and secret of the specification's example give its signature."""
    headers = sign(SECRET, ID, AT, BODY)
    assert headers == {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}


def test_verify_own_signature_returns_the_id() -> None:
    """A request as signed is accepted, whatever the case of header names, among several signatures."""
    headers = {k.title(): v for k, v in sign(SECRET, ID, AT, BODY).items()}
    headers["Webhook-Signature"] = "v2,zzz v1,AAAA " + headers["Webhook-Signature"]
    assert verify(SECRET, headers, BODY, AT + 299.0) == ID


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"webhook-id": "other"}, "no signature matches"),
        ({"webhook-timestamp": str(AT + 1)}, "no signature matches"),
        ({"webhook-timestamp": "\u0661"}, "not a number"),
        ({"webhook-timestamp": "-5"}, "not a number"),
        ({"webhook-timestamp": "9" * 5000}, "not a number"),
        ({"webhook-timestamp": str(AT - 400)}, "check both clocks"),
        ({"webhook-timestamp": str(AT + 400)}, "check both clocks"),
        ({"webhook-signature": ""}, "no signature matches"),
        ({"webhook-signature": SIGNATURE.replace("v1", "v2")}, "no signature matches"),
        ({"webhook-signature": "v1,\u00e9\ud800"}, "no signature matches"),
    ],
)
def test_verify_changed_request_is_refused(change: dict[str, str], said: str) -> None:
    """Anything changed, replayed later or malformed is refused with the reason."""
    with pytest.raises(WebhookError, match=said):
        verify(SECRET, {**sign(SECRET, ID, AT, BODY), **change}, BODY, float(AT))


def test_verify_changed_body_or_other_secret_is_refused() -> None:
    """The body's bytes and the secret both count."""
    headers = sign(SECRET, ID, AT, BODY)
    for secret, body in ((SECRET, BODY + b" "), ("whsec_" + "A" * 32, BODY)):
        with pytest.raises(WebhookError, match="no signature matches"):
            verify(secret, headers, body, float(AT))


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_verify_missing_header_is_named(missing: str) -> None:
    """Each header is needed."""
    headers = sign(SECRET, ID, AT, BODY)
    del headers[missing]
    with pytest.raises(WebhookError, match=f"{missing} is missing"):
        verify(SECRET, headers, BODY, float(AT))


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "hunter2", "whsec_not base64!", "whsec_c2hvcnQ=", "whsec_" + "A" * 100]
)
def test_secret_of_the_wrong_form_says_how_to_make_one(secret: str) -> None:
    """A weak or mistyped secret is refused, and never shown."""
    with pytest.raises(WebhookError, match="openssl rand") as caught:
        secret_key(secret)
    assert "hunter2" not in str(caught.value)
