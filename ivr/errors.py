"""Errors that ``ivr`` raises on purpose.

FirmlineError
├── ConfigError        config or pack is wrong: exit 2, message has file:line: key
├── LineError          the SIP engine cannot start (port taken, address not ours)
├── ModelError         no usable speech model; the message says how to get one
├── WavError           a recording cannot be read
├── PbxError           the PBX refused or did not confirm (``retryable`` says whether to try again)
└── StoreError         the journal cannot be opened

A bad packet, call or client is never one of these: it is answered, counted and logged where it arrives.
"""

from __future__ import annotations


class FirmlineError(Exception):
    """Root of everything Firmline raises deliberately; its text is fit to show to a person."""

    exit_code = 1


class ConfigError(FirmlineError):
    """Configuration that cannot be used; the text holds one ``file:line: key: ...`` line a problem."""

    exit_code = 2


class LineError(FirmlineError):
    """The SIP engine cannot start."""


class ModelError(FirmlineError):
    """No usable speech model."""


class WavError(FirmlineError):
    """A recording that cannot be read."""


class StoreError(FirmlineError):
    """The journal cannot be opened."""


class PbxError(FirmlineError):
    """The PBX refused a request or did not confirm it."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
