"""Logs hold what operators need and never what a caller said."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from ivr.log import PII_KEYS, WITHHELD, configure_logging

WORDS = "you are a useless walnut"


@pytest.fixture
def lines() -> Iterator[Callable[..., Callable[[], list[dict[str, Any]]]]]:
    """Configure JSON logging into memory; give back the lines written so far. Restores global state."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()

    def configure(level: str = "debug", pii: bool = False) -> Callable[[], list[dict[str, Any]]]:
        configure_logging(level, json=True, pii=pii, stream=out)
        return lambda: [json.loads(line) for line in out.getvalue().splitlines()]

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_pii_off_line_holds_no_words(lines: Any) -> None:
    """The ``pii`` key is dropped whole; the rest of the line stays."""
    read = lines(pii=False)
    structlog.get_logger("ivr.call").info("utterance", call="c1", ms=120, pii={"words": WORDS, "caller": "+15550100"})
    (line,) = read()
    assert line["event"] == "utterance" and line["call"] == "c1" and line["ms"] == 120
    assert line["level"] == "info" and line["logger"] == "ivr.call" and line["timestamp"].endswith("Z")
    assert "pii" not in line and "walnut" not in json.dumps(line) and "5550100" not in json.dumps(line)


def test_pii_on_line_holds_words_under_pii_only(lines: Any) -> None:
    """Switched on, words appear under ``pii``, and still nowhere else."""
    read = lines(pii=True)
    structlog.get_logger().info("utterance", pii={"words": WORDS}, text=WORDS)
    (line,) = read()
    assert line["pii"] == {"words": WORDS} and line["text"] == WITHHELD


@pytest.mark.parametrize("key", sorted(PII_KEYS))
def test_known_words_key_outside_pii_is_withheld(lines: Any, key: str) -> None:
    """Keys made for words or identities are never written outside ``pii``, at any depth, whatever the case."""
    read = lines()
    structlog.get_logger().info("x", **{key: "walnut", "nested": {key.upper(): ["walnut"]}})
    (line,) = read()
    assert "walnut" not in json.dumps(line) and line[key] == WITHHELD


@pytest.mark.parametrize(
    "value", [WORDS, WORDS.split() * 2, {"a": {"b": WORDS}}, [{"a": WORDS}], ("x", WORDS), Exception(WORDS)]
)
def test_prose_under_an_unknown_key_is_withheld(lines: Any, value: object) -> None:
    """An utterance put under a key nobody thought of does not slip through."""
    read = lines()
    structlog.get_logger().info("x", note=value, why=value, call="c1")
    (line,) = read()
    assert "walnut" not in json.dumps(line) and line["call"] == "c1"


def test_spoken_number_under_an_unknown_key_is_withheld(lines: Any) -> None:
    """A short run of digits with spaces is a number somebody read out; an id without spaces is not."""
    read = lines()
    structlog.get_logger().info("x", note="4111 1111 1111", call_ref="1700000000.12", peer="127.0.0.1:5060")
    (line,) = read()
    assert line["note"] == WITHHELD and line["call_ref"] == "1700000000.12" and line["peer"] == "127.0.0.1:5060"


def test_operational_prose_stays_readable(lines: Any) -> None:
    """Errors, details and fixes are ours and stay whole."""
    read = lines()
    structlog.get_logger().error("port taken", error="127.0.0.1:8080 is already in use by another program")
    assert read()[0]["error"] == "127.0.0.1:8080 is already in use by another program"


def test_reason_is_readable_below_the_recogniser_and_withheld_above(lines: Any) -> None:
    """A SIP engine's reason is ours; a reason of the judgement may quote the caller."""
    read = lines()
    for name in ("firmline.sip", "firmline.call"):
        structlog.get_logger(name).info("leg_down", why="no ACK came in 32 s", note="no ACK came in 32 s")
    below, above = read()
    assert below["why"] == "no ACK came in 32 s" and above["why"] == below["note"] == WITHHELD


def test_stdlib_logging_goes_through_the_same_pipeline(lines: Any) -> None:
    """Libraries' lines are JSON too, extras are guarded, noise of libraries is held down."""
    read = lines(level="debug")
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7, extra={"color_message": "x"})
    logging.getLogger("sqlalchemy.engine").info("INSERT INTO events")
    logging.getLogger("alembic.runtime").info("Running upgrade")
    (line,) = read()
    assert line["event"] == "Started server process [7]" and line["logger"] == "uvicorn.error"


def test_access_log_has_no_query_string(lines: Any) -> None:
    """What follows the question mark is nobody's business."""
    read = lines()
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "127.0.0.1:9", "GET", "/a?words=walnut", "1.1", 200
    )
    (line,) = read()
    assert line["event"] == '127.0.0.1:9 - "GET /a HTTP/1.1" 200'


def test_level_filters_lines_and_last_configuration_holds(lines: Any) -> None:
    """Configured twice, there is one line per event, by the last level."""
    lines(level="debug")
    read = lines(level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in read()] == ["loud"]


@pytest.mark.parametrize("as_json", [True, False])
def test_traceback_shows_no_local_variables(lines: Any, as_json: bool) -> None:
    """A crash is logged with its traceback but never with the values that were being worked on."""
    lines()
    out = io.StringIO()
    configure_logging("info", json=as_json, pii=False, stream=out)
    secret = "".join(["wal", "nut"])
    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger().exception("it broke")
    assert "Traceback" in out.getvalue() and "ValueError: 6" in out.getvalue() and "walnut" not in out.getvalue()


def test_text_format_is_one_line_an_event_without_colours_off_a_terminal(lines: Any) -> None:
    """Text for people, without escape codes when nobody looks."""
    lines()
    out = io.StringIO()
    configure_logging("info", json=False, pii=False, stream=out)
    structlog.get_logger("ivr.x").info("ready", line="127.0.0.1:5070")
    assert out.getvalue().count("\n") == 1 and "ready" in out.getvalue() and "\x1b" not in out.getvalue()


def test_closed_stderr_is_no_error(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log line that cannot be written costs nothing."""
    lines()
    configure_logging("info", json=True, pii=False)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    structlog.get_logger().info("into the void")
