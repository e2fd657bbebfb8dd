"""Structured logs to stderr, ours and the libraries', through one pipeline that keeps people's words out.

The rule: what a caller said, typed or is called by goes under the key ``pii`` (a mapping) and nowhere else; that key is
dropped unless ``log.pii`` is on. Because rules are forgotten, ``guard_pii`` also takes out the values of
other keys that are known to hold such things, and every longer piece of prose outside the few keys where prose is ours.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ivr.mask import WORD_KEYS, mask_digits

__all__ = ["configure_logging", "guard_pii"]

WITHHELD = "[withheld: log it under pii]"

PII_KEYS = WORD_KEYS | {
    "caller", "caller_id", "caller_name", "caller_number", "caller_uri", "from_uri", "remote_uri", "remote_party",
    "identity", "phone", "number", "dtmf", "digit", "said", "spoken", "speech", "sentence", "body", "headers",
    "hypothesis",
}  # fmt: skip
"""Keys that hold what a person said, typed or is called by: outside ``pii`` their value is never written."""

PROSE_KEYS = frozenset({"event", "error", "detail", "problem", "fix", "exception", "stack", "status"})
"""Keys whose prose is written by us or by a library."""

WORDLESS_LOGGERS = ("firmline.sip", "firmline.rtp", "firmline.calls", "firmline.asr")
WORDLESS_PROSE_KEYS = PROSE_KEYS | {"why", "reason"}
"""Below the recogniser nobody holds a transcript: these modules may also explain themselves under ``why``, which from
the judgement upward may quote the caller."""

MAX_PROSE_WORDS = 3
"""A value of more words than this under a key outside ``PROSE_KEYS`` may be an utterance, and is withheld."""

_FRAMEWORK_KEYS = frozenset({"_record", "_from_structlog", "exc_info", "logger", "level", "timestamp"})
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CHATTY = {
    "alembic": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "matplotlib": logging.WARNING,
    "websockets": logging.WARNING,
}


class guard_pii:  # noqa: N801  a structlog processor is used like a function
    """Processor: drops ``pii`` unless allowed and withholds what only ``pii`` may hold."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def __call__(self, _logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        pii = event_dict.pop("pii", None)
        wordless = str(event_dict.get("logger", "")).startswith(WORDLESS_LOGGERS)
        prose = WORDLESS_PROSE_KEYS if wordless else PROSE_KEYS
        out = {
            key: value if key in _FRAMEWORK_KEYS else _guarded(key, value, prose)
            for key, value in dict(event_dict).items()
        }
        if self._allowed and pii is not None:
            out["pii"] = pii
        return out


def _guarded(key: str, value: Any, prose: frozenset[str], depth: int = 0) -> Any:
    if key.lower() in PII_KEYS:
        return WITHHELD
    if isinstance(value, Mapping):
        return {str(k): _guarded(str(k), v, prose, depth + 1) for k, v in value.items()} if depth < 6 else WITHHELD
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        words = sum(len(item.split()) for item in items if isinstance(item, str))
        too_many = words > 2 * MAX_PROSE_WORDS and key not in prose
        return WITHHELD if too_many or depth >= 6 else [_guarded(key, item, prose, depth + 1) for item in items]
    if value is None or isinstance(value, bool | int | float) or key in prose:
        return value
    # Anything else is rendered by its repr sooner or later: judge it by its text.
    text = value if isinstance(value, str) else repr(value)
    if len(text.split()) > MAX_PROSE_WORDS:
        return WITHHELD
    return value if text == mask_digits(text) or not any(ch.isspace() for ch in text) else WITHHELD


def configure_logging(level: str, json: bool, pii: bool, stream: TextIO | None = None) -> None:
    """Route structlog and stdlib logging to ``stream`` (stderr), as JSON lines or as text for people.

    ``level`` is debug, info, warning or error. May be called again; the last call holds.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        guard_pii(allowed=pii),
    ]
    renderer: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        renderer += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=repr)]
    else:
        colors = (stream or sys.stderr).isatty()
        # Plain tracebacks: the pretty ones print local variables, and those hold transcripts.
        renderer += [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=renderer))
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not isinstance(h, _Handler)] + [handler]
    root.setLevel(_LEVELS[level])
    _adopt_libraries()


def _adopt_libraries() -> None:
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.setLevel(logging.NOTSET)  # uvicorn sets levels of its own for each server it configures
        library.propagate = True
        library.filters[:] = [f for f in library.filters if not isinstance(f, _RequestFilter)] + [_RequestFilter()]
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at the time; a closed pipe must never come back as an error."""

    def __init__(self, stream: TextIO | None) -> None:
        self._fixed = stream
        super().__init__(stream or sys.stderr)

    @property
    def stream(self) -> TextIO:
        return self._fixed or sys.stderr

    @stream.setter
    def stream(self, _value: TextIO) -> None:
        pass

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _RequestFilter(logging.Filter):
    """Takes query strings out of uvicorn's lines: they may hold anything. Probes that went well are for debugging.

    What its WebSocket library says below INFO is headers and frames: tokens and callers' words.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "uvicorn.error" and record.levelno < logging.INFO:
            return False
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.partition("?")[0] if isinstance(arg, str) and arg.startswith("/") else arg for arg in record.args
            )
        # uvicorn's args of an access line: client address, method, path, HTTP version, status.
        if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
            if record.args[1] == "GET" and record.args[4] in (200, 304):
                record.levelno, record.levelname = logging.DEBUG, "DEBUG"
                return logging.getLogger().isEnabledFor(logging.DEBUG)
        return True
