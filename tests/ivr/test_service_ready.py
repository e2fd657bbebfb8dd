"""The ready line is for whoever reads it; nobody reading it must not cost the calls their ears."""

from __future__ import annotations

import contextlib
import sys

import pytest
import structlog

from ivr.commands import _say_ready

TOLD = {"version": "1", "line": "sip:f@127.0.0.1:1", "pbx": "direct", "model": "tiny.en", "api": "http://127.0.0.1:1"}


@pytest.mark.parametrize("as_json", [True, False])
def test_full_disk_under_stdout_is_told_to_the_log_only(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    """``firmline run > file`` on a full disk."""
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115  closing it fails too, which is the point
    monkeypatch.setattr(sys, "stdout", full)
    with structlog.testing.capture_logs() as logs:
        _say_ready(TOLD, as_json)
    assert [row["event"] for row in logs] == ["the ready line could not be written"] and "space" in logs[0]["error"]
    with contextlib.suppress(OSError):
        full.close()


def test_closed_stdout_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """``firmline run >&-``: Python has no stdout then."""
    monkeypatch.setattr(sys, "stdout", None)
    _say_ready(TOLD, as_json=True)
